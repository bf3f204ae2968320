// What a failed call says beside its code: google.rpc.ErrorInfo, BadRequest and RetryInfo.

import { status } from '@grpc/grpc-js';
import { definitions } from './connection.js';

const DOMAIN = 'playbook-runs'; // other domains are proxies', whose reasons are not ours

// Returns { reason, metadata, violations: [{ field, description }], retryAfter: ms or undefined }.
export function details(error) {
  const found = { reason: '', metadata: {}, violations: [], retryAfter: undefined };
  const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!trailer) return found;
  for (const { type_url: url, value } of definitions['google.rpc.Status'].deserialize(trailer).details) {
    const type = url.split('/').pop();
    const detail = definitions[type]?.deserialize(value);
    if (type === 'google.rpc.ErrorInfo' && detail.domain === DOMAIN) {
      found.reason = detail.reason;
      // A map from a descriptor set is a list of entries to proto-loader.
      found.metadata = Object.fromEntries(detail.metadata.map(({ key, value }) => [key, value]));
    } else if (type === 'google.rpc.BadRequest') {
      found.violations = detail.field_violations.map(({ field, description }) => ({ field, description }));
    } else if (type === 'google.rpc.RetryInfo') {
      found.retryAfter = detail.retry_delay.seconds * 1_000 + detail.retry_delay.nanos / 1e6;
    }
  }
  return found;
}

// Prints what a failed call says; throws what is no call's.
export function explain(error) {
  if (error.code === undefined) throw error;
  const { reason, metadata, violations, retryAfter } = details(error);
  console.error(`${status[error.code]} ${reason}: ${error.details}`);
  for (const { field, description } of violations) console.error(`  ${field}: ${description}`);
  for (const [name, value] of Object.entries(metadata)) console.error(`  ${name} = ${value}`);
  if (retryAfter !== undefined) console.error(`  try again in ${retryAfter} ms`);
}
