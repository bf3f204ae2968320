// A run's changes, each once and in order, over any number of connections.

import { setTimeout as pause } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { details } from './errors.js';

const TERMINAL = new Set(['SUCCEEDED', 'FAILED', 'STALE', 'CANCELLED']);
const IDLE = 45_000; // ms without a message, three heartbeats: the connection is dead
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2_000;
const GIVE_UP_AFTER = 60_000; // ms without an answer

// Yields each run as it was after `afterSequence` (undefined: first as it is now), up to its end.
export async function* watch(connection, projectId, runId, afterSequence) {
  const names = { project_id: projectId, run_id: runId };
  let last = afterSequence;
  let delay = FIRST_PAUSE;
  let answered = Date.now();
  while (true) {
    let failure;
    try {
      for await (const { kind, run } of stream(connection, { ...names, after_sequence: last })) {
        answered = Date.now();
        delay = FIRST_PAUSE;
        if (kind === 'HEARTBEAT') continue;
        last = run.sequence;
        yield run;
        if (TERMINAL.has(run.status)) return;
      }
      // Ended well without the run's end: it was seen before, or a proxy ended the stream.
      const { run } = await connection.unary('GetRun', names);
      answered = Date.now();
      if (TERMINAL.has(run.status) && run.sequence <= last) return;
    } catch (error) {
      failure = error;
    }
    const { reason, retryAfter } = failure ? details(failure) : {};
    if (reason === 'SEQUENCE_EXPIRED' && last !== undefined) {
      last = undefined; // no longer kept: go on from a snapshot
      continue;
    }
    if (failure && (!goesOn(failure, reason) || Date.now() - answered > GIVE_UP_AFTER)) throw failure;
    await pause(retryAfter ?? delay * (0.5 + Math.random() / 2)); // not all watchers at once
    delay = Math.min(delay * 2, LONGEST_PAUSE);
  }
}

// The messages of one call; the call has ended when the caller goes on.
async function* stream(connection, request) {
  const call = connection.stub.WatchRun(request, connection.metadata());
  call.on('error', () => {}); // the loop below throws it; what comes after a cancel must not end the process
  const idle = setTimeout(() => call.cancel(), IDLE);
  try {
    for await (const message of call) {
      idle.refresh();
      yield message;
    }
  } finally {
    clearTimeout(idle);
    call.cancel(); // an abandoned call would stay open at the server
  }
}

function goesOn(error, reason) {
  switch (error.code) {
    case status.UNAVAILABLE: // lost connections, SHUTTING_DOWN, DATABASE_UNAVAILABLE
    case status.RESOURCE_EXHAUSTED: // WATCHER_TOO_SLOW, TOO_MANY_CALLS
      return true;
    case status.UNAUTHENTICATED:
      return reason === 'TOKEN_EXPIRED'; // the next call takes a new one
    case status.CANCELLED: // a connection that was cut in the middle can look like these
    case status.INTERNAL:
    case status.UNKNOWN:
      return reason === '';
    default:
      return false;
  }
}
