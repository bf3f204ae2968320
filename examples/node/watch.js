// A run's changes, each once and in order, over any number of connections.

import { details } from './errors.js';
import { messagesOf, Patience } from './resuming.js';

const TERMINAL = new Set(['SUCCEEDED', 'FAILED', 'STALE', 'CANCELLED']);

// Yields each run as it was after `afterSequence` (undefined: first as it is now), up to its end.
export async function* watch(connection, projectId, runId, afterSequence) {
  const names = { project_id: projectId, run_id: runId };
  const patience = new Patience();
  let last = afterSequence;
  while (true) {
    let failure;
    try {
      const call = connection.stub.WatchRun({ ...names, after_sequence: last }, connection.metadata());
      for await (const { kind, run } of messagesOf(call)) {
        patience.answered();
        if (kind === 'HEARTBEAT') continue;
        last = run.sequence;
        yield run;
        if (TERMINAL.has(run.status)) return;
      }
      // Ended well without the run's end: it was seen before, or a proxy ended the stream.
      const { run } = await connection.unary('GetRun', names);
      patience.answered();
      if (TERMINAL.has(run.status) && run.sequence <= last) return;
    } catch (error) {
      failure = error;
    }
    if (failure && last !== undefined && details(failure).reason === 'SEQUENCE_EXPIRED') {
      last = undefined; // no longer kept: go on from a snapshot
      continue;
    }
    await patience.pause(failure);
  }
}
