// npm run cluster:down: ends what `npm run cluster:up` started.
import { program } from '../dev/lib.mjs';
import { down } from './index.mjs';

await program('npm run cluster:down', {}, async () => {
  console.log((await down()) ? 'The cluster is down.' : 'No cluster was up.');
});
