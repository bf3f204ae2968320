// What watches have in common: a stream that is opened again where it was cut.

import { setTimeout as pause } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { details } from './errors.js';

const IDLE = 45_000; // ms without a message, three heartbeats: the connection is dead
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 2_000;
const GIVE_UP_AFTER = 60_000; // ms without an answer

// The messages of one call; the call has ended when the caller goes on.
export async function* messagesOf(call) {
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

// How long a watcher has waited for an answer, and when it tries again.
export class Patience {
  constructor() {
    this.answered();
  }

  answered() {
    this.answeredAt = Date.now();
    this.delay = FIRST_PAUSE;
  }

  // Waits before the next connection; throws `failure` (undefined: the stream ended well) when none would help.
  async pause(failure) {
    const { reason, retryAfter } = failure ? details(failure) : {};
    if (failure && (!goesOn(failure, reason) || Date.now() - this.answeredAt > GIVE_UP_AFTER)) throw failure;
    await pause(retryAfter ?? this.delay * (0.5 + Math.random() / 2)); // not all watchers at once
    this.delay = Math.min(this.delay * 2, LONGEST_PAUSE);
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
    case status.DEADLINE_EXCEEDED: // or cut by a proxy after its own time limit
      return reason === '';
    default:
      return false;
  }
}
