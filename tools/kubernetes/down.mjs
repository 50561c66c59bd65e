// npm run cluster:down: ends what `npm run cluster:up` started.
import { main } from '../dev/lib.mjs';
import { down } from './index.mjs';

await main(async () => {
  console.log((await down()) ? 'The cluster is down.' : 'No cluster was up.');
});
