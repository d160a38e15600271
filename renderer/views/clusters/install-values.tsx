import { Button, FileButton, SegmentedControl, Select, Switch, TextInput } from '@mantine/core';
import { lazy, Suspense, useEffect, useState } from 'react';
import { parseDocument, stringify } from 'yaml';
import type { Failure } from '../../../contract/failure.ts';
import type { PolicyProblem } from '../../../contract/policies.ts';
import { valueFields, valuesJSONSchema } from '../../../contract/value-fields.ts';
import { changedValues, type Values } from '../../../contract/values.ts';
import { type ImportedValues, importValues } from '../../../contract/values-import.ts';
import { useProcedure } from '../../app/streams.ts';
import type { Schema } from '../../ui/code/yaml-path.ts';
import { download } from '../../ui/download.ts';
import { plural } from '../../ui/format.ts';
import { Banner, Copy, FailureCard, ReasonedButton, SkeletonRows, Spacer } from '../../ui/pieces.tsx';
import styles from './clusters.module.css';
import { refusedPath, ValueForm } from './value-form.tsx';

const YamlEditor = lazy(async () => ({ default: (await import('../../ui/code/yaml-editor.tsx')).YamlEditor }));

/** Values for one kind of cluster, as the engine offers them. */
export interface ValueProfile {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly recognised: boolean;
  readonly values: Values;
}

interface InstallValuesProps {
  readonly cluster: string;
  readonly values: Values;
  /** What is installed now; undefined for a new installation. */
  readonly installed: Values | undefined;
  readonly suggested: Values;
  readonly reasons: Readonly<Record<string, string>>;
  readonly profiles: readonly ValueProfile[];
  readonly onChange: (values: Values) => void;
  readonly onCancel: () => void;
  readonly onPlan: () => void;
  readonly planning: boolean;
  readonly failure: Failure | undefined;
}

/** What a file or a text of values says, with what cannot be taken over. */
export function readValuesText(text: string): ImportedValues & { readonly syntax: string | undefined } {
  const document = parseDocument(text);
  const [error] = document.errors;
  if (error) return { ...importValues({}), syntax: error.message };
  return { ...importValues(document.toJS() ?? {}), syntax: undefined };
}

function problemsOf(text: string): readonly PolicyProblem[] {
  const read = readValuesText(text);
  const lines = text.split('\n');
  const at = (path: string) => {
    const key = path.split('.').at(-1) ?? '';
    return (
      Math.max(
        0,
        lines.findIndex((line) => new RegExp(`^\\s*"?${key.replace(/\W/g, '.')}"?\\s*:`).test(line)),
      ) + 1
    );
  };
  const one = (severity: PolicyProblem['severity'], path: string, what: string, why: string): PolicyProblem => {
    const line = at(path);
    const end = (lines[line - 1]?.length ?? 0) + 1;
    return { severity, code: 'values', path, line, column: 1, endLine: line, endColumn: end, what, why, fix: '' };
  };
  return [
    ...(read.syntax ? [one('error', '', 'This is not valid YAML.', read.syntax)] : []),
    ...read.problems.map(({ path, why }) => one('error', path, `${path} cannot have this value.`, why)),
    ...read.ignored.map(({ path, why }) => one('warning', path, `${path} has no equivalent.`, why)),
  ];
}

/** The values of an installation: a form in groups, or YAML with the names of Cilium's chart; both show one thing. */
export function InstallValues(props: InstallValuesProps) {
  const { values, installed, suggested, reasons, profiles, onChange, onCancel, onPlan, planning, failure } = props;
  const [yaml, setYaml] = useState<string | undefined>(undefined);
  const [advanced, setAdvanced] = useState(false);
  const [find, setFind] = useState('');
  const [imported, setImported] = useState<ImportedValues | undefined>(undefined);
  const [schema] = useState(() => valuesJSONSchema());
  const settled = useSettled(values, 250);
  const check = useProcedure(`check ${props.cluster} ${JSON.stringify(settled)}`, (client, signal) =>
    client.install.check({ cluster: props.cluster, values: settled }, { signal }),
  );
  const [checked, setChecked] = useState(check.value);
  useEffect(() => {
    if (check.value) setChecked(check.value);
  }, [check.value]);
  const obstacles = checked?.obstacles ?? [];
  const textProblems = yaml === undefined ? [] : problemsOf(yaml);
  const changeYaml = (text: string) => {
    setYaml(text);
    const read = readValuesText(text);
    if (!read.syntax && read.problems.length === 0) onChange(read.values);
  };
  const readFile = async (file: File | null) => {
    if (!file) return;
    const read = readValuesText(await file.text());
    setImported(
      read.syntax ? { ...read, problems: [{ path: file.name, why: `It is not valid YAML: ${read.syntax}` }] } : read,
    );
    if (read.syntax) return;
    onChange(read.values);
    if (yaml !== undefined) setYaml(stringify(changedValues(read.values)));
  };
  const wrong = textProblems.find((problem) => problem.severity === 'error');
  const refusal = obstacles[0];
  const problem = wrong?.what ?? (refusal ? `${refusal.what} ${refusal.fix}` : undefined);
  const differing = installed ? differingPaths(installed, values) : [];
  const others = obstacles.filter((one) => !valueFields.some((field) => field.path === refusedPath(one)));
  return (
    <div className={styles.box}>
      <div className={styles.boxHead}>
        <h2>Values</h2>
        <Spacer />
        <FileButton accept=".yaml,.yml,.json" onChange={(file) => void readFile(file)}>
          {(button) => (
            <Button variant="default" size="compact-sm" {...button}>
              Import a values file…
            </Button>
          )}
        </FileButton>
        <Button
          variant="default"
          size="compact-sm"
          onClick={() => download('fairlead-values.yaml', stringify(changedValues(values)), 'text/yaml')}
        >
          Export
        </Button>
        <Button
          variant="subtle"
          size="compact-sm"
          onClick={() =>
            download('fairlead-values.schema.json', JSON.stringify(schema, undefined, 2), 'application/schema+json')
          }
        >
          JSON Schema
        </Button>
        <SegmentedControl
          aria-label="Edit as"
          value={yaml === undefined ? 'form' : 'yaml'}
          onChange={(value) => setYaml(value === 'yaml' ? stringify(changedValues(values)) : undefined)}
          data={[
            { value: 'form', label: 'Form' },
            { value: 'yaml', label: 'YAML' },
          ]}
        />
      </div>
      {imported ? <ImportReport imported={imported} onClose={() => setImported(undefined)} /> : null}
      {installed ? (
        <Banner tone="info">
          {differing.length === 0
            ? 'These are the values that are installed; change what is to change, the rest is kept.'
            : `Changed: ${differing.join(', ')}. Everything else is kept.`}
        </Banner>
      ) : null}
      {yaml === undefined ? (
        <>
          <div className={styles.valueBar}>
            <Select
              aria-label="Profile"
              placeholder="Profile…"
              value={null}
              data={profiles.map((one) => ({
                value: one.id,
                label: one.recognised ? `${one.title} (this cluster)` : one.title,
              }))}
              onChange={(id) => {
                const chosen = profiles.find((one) => one.id === id);
                if (chosen) onChange(chosen.values);
              }}
            />
            <TextInput
              aria-label="Find a value"
              placeholder="Find a value, e.g. masquerade"
              value={find}
              onChange={(event) => setFind(event.currentTarget.value)}
            />
            <Switch
              label={`All ${valueFields.length} values`}
              checked={advanced}
              onChange={(event) => setAdvanced(event.currentTarget.checked)}
            />
            <Spacer />
            <span className="muted">{profiles.find((one) => one.recognised)?.text}</span>
          </div>
          <ValueForm
            values={values}
            suggested={suggested}
            reasons={reasons}
            obstacles={obstacles}
            advanced={advanced}
            find={find}
            onChange={onChange}
          />
        </>
      ) : (
        <div className={styles.boxBody}>
          <div style={{ display: 'flex', justifyContent: 'space-between' }}>
            <p className="muted">
              Only what differs from the defaults. Names are those of Cilium’s chart: an existing values file can be
              pasted; what has no equivalent is marked.
            </p>
            <Copy text={yaml} label="Copy the values" />
          </div>
          <div className={styles.valueEditor}>
            <Suspense fallback={<SkeletonRows rows={12} label="Loading the editor" />}>
              <YamlEditor
                label="Values as YAML"
                text={yaml}
                onChange={changeYaml}
                problems={textProblems}
                schema={schema as Schema}
              />
            </Suspense>
          </div>
          {textProblems.length > 0 ? (
            <ul className={styles.problems} aria-label="Problems of the values">
              {textProblems.map((one) => (
                <li key={`${one.path} ${one.what}`}>
                  {one.what} <span className="muted">{one.why}</span>
                </li>
              ))}
            </ul>
          ) : null}
        </div>
      )}
      {(checked?.warnings ?? []).map((warning) => (
        <Banner key={warning} tone="warn">
          {warning}
        </Banner>
      ))}
      <div className={styles.boxBody} style={{ borderTop: '1px solid var(--line)', display: 'grid', gap: 10 }}>
        {(yaml === undefined ? others : obstacles).map((one) => (
          <FailureCard key={`${one.code} ${one.what}`} failure={one} />
        ))}
        {check.failure ? <FailureCard failure={check.failure} onRetry={check.retry} /> : null}
        {failure ? <FailureCard failure={failure} /> : null}
        <div className={styles.footer}>
          {problem ? (
            <span style={{ color: 'var(--bad)' }}>{problem}</span>
          ) : (
            <span className="muted">Making a plan writes nothing.</span>
          )}
          <Button variant="default" onClick={onCancel}>
            Cancel
          </Button>
          <ReasonedButton blocked={problem} loading={planning} onClick={onPlan}>
            Make a plan
          </ReasonedButton>
        </div>
      </div>
    </div>
  );
}

/** The value as it was a moment ago, when it has not changed since. */
function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}

function differingPaths(before: Values, after: Values): readonly string[] {
  const text = (values: Values, path: string) => JSON.stringify(path.split('.').reduce(step, values as unknown));
  return valueFields.map((field) => field.path).filter((path) => text(before, path) !== text(after, path));
}

function step(at: unknown, key: string): unknown {
  return typeof at === 'object' && at !== null ? (at as Readonly<Record<string, unknown>>)[key] : undefined;
}

function ImportReport({ imported, onClose }: { readonly imported: ImportedValues; readonly onClose: () => void }) {
  const { taken, ignored, problems } = imported;
  return (
    <div className={styles.boxBody} style={{ borderBottom: '1px solid var(--line)' }} role="status">
      <div style={{ display: 'flex', gap: 10, alignItems: 'center' }}>
        <b>
          {plural(taken.length, 'value')} taken over, {ignored.length} without an equivalent
          {problems.length > 0 ? `, ${problems.length} not possible` : ''}
        </b>
        <Spacer />
        <Button variant="subtle" size="compact-xs" onClick={onClose}>
          Close
        </Button>
      </div>
      <ul className={styles.problems}>
        {problems.map((one) => (
          <li key={one.path} style={{ color: 'var(--bad)' }}>
            <b className="mono">{one.path}</b> {one.why}
          </li>
        ))}
        {ignored.map((one) => (
          <li key={one.path}>
            <b className="mono">{one.path}</b> <span className="mono muted">{one.value.slice(0, 60)}</span> {one.why}
          </li>
        ))}
      </ul>
    </div>
  );
}
