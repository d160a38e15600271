import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import type { KubeObject } from '../kube/cluster-connection.ts';
import { projectFile } from '../project.ts';
import { withoutNulls } from './diff.ts';

let cached: readonly KubeObject[] | undefined;

/** The custom resource definitions that the agent needs, as generated from its Go types. */
export function customResourceDefinitions(): readonly KubeObject[] {
  cached ??= read();
  return cached;
}

function read(): readonly KubeObject[] {
  const directory = projectFile('node-agent/api/crds');
  return readdirSync(directory)
    .filter((name) => name.endsWith('.yaml'))
    .sort()
    .flatMap((name) => parseAllDocuments(readFileSync(join(directory, name), 'utf8')))
    .map((document) => withoutNulls(document.toJS() as KubeObject))
    .filter((object) => object?.kind === 'CustomResourceDefinition');
}
