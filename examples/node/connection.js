// A channel to runs-service, with what every call over it needs.

import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const DESCRIPTORS = new URL('../../gen/playbook-runs.binpb', import.meta.url); // copy it into your own project
const UNARY_DEADLINE = 30_000; // ms; without a deadline a call can wait for ever

export const definitions = protoLoader.loadFileDescriptorSetFromBuffer(readFileSync(DESCRIPTORS), {
  longs: Number, // sequences and counts; nothing here passes 2^53
  enums: String,
  defaults: true,
});
const { RunsService } = grpc.loadPackageDefinition(definitions).playbooks.runs.v1;

// Every method may be sent again when the service is away: a repeated call gets what the first one made.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{ service: 'playbooks.runs.v1.RunsService' }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.2s',
        maxBackoff: '2s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
};
const OPTIONS = {
  'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.keepalive_time_ms': 60_000, // at least 5 s: the services disconnect clients that ping more often
  'grpc.keepalive_timeout_ms': 20_000,
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 2_000,
  'grpc.enable_http_proxy': 0, // http_proxy is meant for the Web, and would get calls to this machine too
};

export class Connection {
  // `token` is asked for one before each call, so that a new one can follow one that expires.
  constructor(target, token, caFile) {
    const credentials = caFile
      ? grpc.credentials.createSsl(readFileSync(caFile))
      : grpc.credentials.createInsecure();
    this.stub = new RunsService(target, credentials, OPTIONS);
    this.token = token;
  }

  metadata() {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${this.token()}`);
    return metadata;
  }

  // One call, for instance `unary('GetRun', {...})`.
  unary(method, request, deadline = UNARY_DEADLINE) {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + deadline };
      this.stub[method](request, this.metadata(), options, (error, response) =>
        error ? reject(error) : resolve(response),
      );
    });
  }

  close() {
    this.stub.close();
  }
}
