// node follow.js --project shop [--after POSITION] [--target 127.0.0.1:50051] [--ca-file F]
// with the token in PLAYBOOK_RUNS_TOKEN: shows the newest runs and then each change of each run, until Ctrl-C.

import { parseArgs } from 'node:util';
import { Connection } from './connection.js';
import { explain } from './errors.js';
import { watchProject } from './project.js';

const { values: options } = parseArgs({
  options: {
    project: { type: 'string' },
    after: { type: 'string', default: '' },
    target: { type: 'string', default: '127.0.0.1:50051' },
    'ca-file': { type: 'string' },
  },
});

const connection = new Connection(options.target, () => process.env.PLAYBOOK_RUNS_TOKEN ?? '', options['ca-file']);
try {
  for await (const { run, position } of watchProject(connection, options.project, options.after)) {
    console.log(`${run.id}  #${run.sequence}  ${run.run_type}  ${run.status}  ${position}`);
  }
} catch (error) {
  explain(error);
  process.exitCode = 1;
} finally {
  connection.close();
}
