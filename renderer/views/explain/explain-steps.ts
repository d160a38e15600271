import type { Inventory } from '../../../contract/clusters.ts';
import type { PacketAnswer, PacketQuestion, PacketStep } from '../../../contract/explain.ts';
import { addressesOf } from '../../ui/addresses.ts';

/** Steps that one program took in a row. */
export interface StepGroup {
  readonly key: string;
  readonly node: string;
  readonly hook: string;
  readonly steps: readonly PacketStep[];
}

/** Puts the steps of one run of a program together, in their order. */
export function groupSteps(steps: readonly PacketStep[]): readonly StepGroup[] {
  const groups: { key: string; node: string; hook: string; steps: PacketStep[] }[] = [];
  for (const step of steps) {
    const last = groups.at(-1);
    if (last && last.node === step.node && last.hook === step.hook) last.steps.push(step);
    else
      groups.push({
        key: `${groups.length} ${step.node} ${step.hook}`,
        node: step.node,
        hook: step.hook,
        steps: [step],
      });
  }
  return groups;
}

const texts: Readonly<Record<PacketAnswer['verdict'], string>> = {
  delivered: 'Delivered',
  host: 'Delivered to the node',
  leaves: 'Leaves the cluster',
  dropped: 'Dropped',
  refused: 'Refused',
  proxy: 'To a proxy',
  unknown: 'Not known',
};

/** A verdict in words. */
export function verdictText(verdict: PacketAnswer['verdict']): string {
  return texts[verdict];
}

/** The family that a text names; either where it names none. */
export function familyOf(text: string | undefined): NonNullable<PacketQuestion['family']> {
  return text === 'ipv4' || text === 'ipv6' ? text : 'either';
}

/** True where some pod has addresses of both families, so that it matters which one is asked about. */
export function hasBothFamilies(inventory: Inventory | undefined): boolean {
  return (inventory?.pods ?? []).some(
    (pod) => !pod.hostNetwork && new Set(addressesOf(pod).map((address) => address.includes(':'))).size === 2,
  );
}
