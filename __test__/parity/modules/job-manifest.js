import { renderPrompts } from '../../../js/prepare.js';
import { requestOf } from '../../../js/request.js';
import { binding } from '../compat.js';

export const { buildRtkSetupCommands, sanitizeLabelValue } = binding;

export const buildJobManifest = ({ ctx, selfPod, promptBundle }) =>
  binding.buildJobManifest(
    requestOf(ctx),
    JSON.stringify(selfPod),
    JSON.stringify(renderPrompts(ctx)),
    JSON.stringify(promptBundle ?? null),
  );
