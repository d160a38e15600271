/** A rule as SelfSubjectRulesReview lists them. */
export interface ResourceRule {
  readonly verbs: readonly string[];
  readonly apiGroups?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
}

export interface Question {
  readonly verb: string;
  readonly group: string;
  readonly plural: string;
  readonly subresource?: string | undefined;
}

/** Whether one of the rules grants something for every object; rules for some names only do not. */
export function grants(rules: readonly ResourceRule[], { verb, group, plural, subresource }: Question): boolean {
  const resource = subresource === undefined ? plural : `${plural}/${subresource}`;
  return rules.some(
    (rule) =>
      (rule.verbs.includes('*') || rule.verbs.includes(verb)) &&
      (rule.apiGroups?.includes('*') || rule.apiGroups?.includes(group)) &&
      (rule.resources?.includes('*') ||
        rule.resources?.includes(resource) ||
        (subresource !== undefined && rule.resources?.includes(`*/${subresource}`))) &&
      (rule.resourceNames ?? []).length === 0,
  );
}
