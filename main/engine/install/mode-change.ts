import { type Values, valuesSchema } from '../../../contract/index.ts';
import type { KubeObject } from '../kube/cluster-connection.ts';
import { valuesAnnotation } from './names.ts';

/** The values that a ConfigMap of the agent says it was made from. */
function valuesOf(live: KubeObject | undefined): Values | undefined {
  const given = live?.metadata.annotations?.[valuesAnnotation];
  if (given === undefined) return undefined;
  try {
    const parsed = valuesSchema.safeParse(JSON.parse(given));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

/** What a plan says of a change of how pods of different nodes reach each other. `live` is the agent's ConfigMap now. */
export function modeChangeWarnings(values: Values, live: KubeObject | undefined): readonly string[] {
  const before = valuesOf(live);
  if (!before) return [];
  const tunnelOf = ({ tunnelProtocol, tunnelPort }: Values) => `${tunnelProtocol}:${tunnelPort}`;
  if (before.routingMode !== values.routingMode)
    return [
      `Routing changes from ${before.routingMode} to ${values.routingMode}, node by node. Nodes of both modes reach each other meanwhile: no connection between pods is interrupted (measured: no datagram lost; pauses of up to 0.9 s on an overloaded machine). Connections of clients outside go on as well; a policy of their backends sees them as the new mode has it: as the node that they enter by without a tunnel, as the world in one.`,
    ];
  if (values.routingMode === 'tunnel' && tunnelOf(before) !== tunnelOf(values))
    return [
      'The tunnel changes its protocol or port, node by node: a node with the new one and a node with the old one do not reach each other’s pods until both have it.',
    ];
  return [];
}
