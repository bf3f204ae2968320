// node main.js --project shop [--playbook missing_seo_title] [--sample-size 3] [--target 127.0.0.1:50051] [--ca-file F]
// with the token in PLAYBOOK_RUNS_TOKEN: makes a preview, shows its progress and its end.

import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Connection } from './connection.js';
import { explain } from './errors.js';
import { watch } from './watch.js';

const { values: options } = parseArgs({
  options: {
    project: { type: 'string' },
    playbook: { type: 'string', default: 'missing_seo_title' },
    'sample-size': { type: 'string', default: '3' },
    target: { type: 'string', default: '127.0.0.1:50051' },
    'ca-file': { type: 'string' },
  },
});

function show({ sequence, status: state, progress }) {
  console.log(`#${sequence}  ${state}  ${progress?.completed ?? 0}/${progress?.total ?? 0}`);
}

async function main() {
  const connection = new Connection(options.target, () => process.env.PLAYBOOK_RUNS_TOKEN ?? '', options['ca-file']);
  try {
    const { run, created } = await connection.unary('CreateRun', {
      project_id: options.project,
      playbook_id: options.playbook,
      run_type: 'PREVIEW_GENERATE',
      meta: { sample_size: Number(options['sample-size']) },
      request_id: randomUUID(), // the same one when the call is repeated, so that a lost answer makes no second run
    });
    console.log(`${created ? 'created' : 'found'} run ${run.id}`);
    show(run);
    let last = run;
    for await (const change of watch(connection, run.project_id, run.id, run.sequence)) {
      show(change);
      last = change;
    }
    if (last.status !== 'SUCCEEDED') {
      console.error(`${last.error_code || last.status}: ${last.error_message}`);
      process.exitCode = 1;
    }
  } catch (error) {
    explain(error);
    process.exitCode = 1;
  } finally {
    connection.close();
  }
}

await main();
