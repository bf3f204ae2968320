// The changes of all runs of a project, each once, over any number of connections.

import { details } from './errors.js';
import { messagesOf, Patience } from './resuming.js';

// Yields { run, position } without an end: first the newest runs (after: ''), or what came after a position, then each
// change. Keep the position with what you did about the run, to go on there another time.
export async function* watchProject(connection, projectId, after = '') {
  const patience = new Patience();
  let position = after;
  while (true) {
    let failure;
    try {
      const call = connection.stub.WatchRuns({ project_id: projectId, after: position }, connection.metadata());
      for await (const message of messagesOf(call)) {
        patience.answered();
        position = message.position;
        if (message.kind !== 'BOOKMARK') yield { run: message.run, position };
      }
    } catch (error) {
      failure = error;
    }
    if (failure && position && details(failure).reason === 'POSITION_EXPIRED') {
      position = ''; // no longer kept: go on from the newest runs
      continue;
    }
    await patience.pause(failure);
  }
}
