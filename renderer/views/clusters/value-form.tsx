import { Button, NumberInput, Select, Switch, TagsInput, TextInput } from '@mantine/core';
import type { ReactNode } from 'react';
import type { Failure } from '../../../contract/failure.ts';
import { type ValueField, valueFields, valueGroups } from '../../../contract/value-fields.ts';
import { defaultValues, type ValueLeaf, type Values, valueAt, withValue } from '../../../contract/values.ts';
import styles from './clusters.module.css';

interface ValueFormProps {
  readonly values: Values;
  readonly suggested: Values;
  readonly reasons: Readonly<Record<string, string>>;
  /** What the engine refuses, its code ending in the field's path. */
  readonly obstacles: readonly Failure[];
  readonly advanced: boolean;
  /** Words that fields have to have in name, title or text; "" for all. */
  readonly find: string;
  readonly onChange: (values: Values) => void;
}

/** Path of the value that a refusal is about; undefined when it is about something else. */
export function refusedPath(failure: Failure): string | undefined {
  return /^install\.value\.(.+)$/.exec(failure.code)?.[1];
}

/** Fields that are shown: all that match a search, otherwise the basic ones and those that are not at their default. */
export function shownFields(values: Values, advanced: boolean, find: string, refused: ReadonlySet<string>) {
  const words = find.toLowerCase().split(/\s+/).filter(Boolean);
  return valueFields.filter((field) => {
    if (words.length > 0) {
      const text = `${field.path} ${field.title} ${field.text}`.toLowerCase();
      return words.every((word) => text.includes(word));
    }
    if (advanced || field.basic || refused.has(field.path)) return true;
    return JSON.stringify(valueAt(values, field.path)) !== JSON.stringify(valueAt(defaultValues, field.path));
  });
}

/** Every value in its group, each explained, with what the cluster suggests and what the engine refuses beside it. */
export function ValueForm({ values, suggested, reasons, obstacles, advanced, find, onChange }: ValueFormProps) {
  const refused = new Map<string, Failure>();
  for (const failure of obstacles) {
    const path = refusedPath(failure);
    if (path && !refused.has(path)) refused.set(path, failure);
  }
  const shown = shownFields(values, advanced, find, new Set(refused.keys()));
  if (shown.length === 0) return <p className={`muted ${styles.boxBody}`}>No value matches “{find}”.</p>;
  return (
    <>
      {valueGroups.map((group) => {
        const fields = shown.filter((field) => field.group === group.id);
        if (fields.length === 0) return null;
        return (
          <section key={group.id} className={styles.group} aria-label={group.title}>
            <div className={styles.groupText}>
              <h3>{group.title}</h3>
              <p>{group.text}</p>
            </div>
            <div className={styles.fields}>
              {fields.map((field) => (
                <div key={field.path}>
                  <FieldInput
                    field={field}
                    value={valueAt(values, field.path) ?? ''}
                    error={refused.get(field.path)}
                    onChange={(value) => onChange(withValue(values, field.path, value))}
                  />
                  <Suggestion
                    reason={reasons[field.path]}
                    value={valueAt(values, field.path)}
                    suggested={valueAt(suggested, field.path)}
                    onUse={(value) => onChange(withValue(values, field.path, value))}
                  />
                </div>
              ))}
            </div>
          </section>
        );
      })}
    </>
  );
}

interface SuggestionProps {
  readonly reason: string | undefined;
  readonly value: ValueLeaf | undefined;
  readonly suggested: ValueLeaf | undefined;
  readonly onUse: (value: ValueLeaf) => void;
}

function Suggestion({ reason, value, suggested, onUse }: SuggestionProps) {
  if (!reason || suggested === undefined) return null;
  const differs = JSON.stringify(value) !== JSON.stringify(suggested);
  return (
    <div className={styles.reason}>
      Suggested: {String(suggested)}. {reason}{' '}
      {differs ? (
        <Button variant="subtle" size="compact-xs" onClick={() => onUse(suggested)}>
          Use {String(suggested) || 'none'}
        </Button>
      ) : null}
    </div>
  );
}

interface FieldInputProps {
  readonly field: ValueField;
  readonly value: ValueLeaf;
  readonly error: Failure | undefined;
  readonly onChange: (value: ValueLeaf) => void;
}

function FieldInput({ field, value, error, onChange }: FieldInputProps) {
  const { title, path, text } = field;
  const label: ReactNode = (
    <>
      {title} <span className={styles.path}>{path}</span>
    </>
  );
  const shared = {
    label,
    description: text,
    error: error ? `${error.what} ${error.fix}` : undefined,
    'aria-label': title,
    ...(field.placeholder ? { placeholder: field.placeholder } : {}),
  };
  if (typeof value === 'boolean')
    return <Switch {...shared} checked={value} onChange={(event) => onChange(event.currentTarget.checked)} />;
  if (typeof value === 'number')
    return (
      <NumberInput
        {...shared}
        value={value}
        allowDecimal={path === 'bpf.mapDynamicSizeRatio'}
        step={path === 'bpf.mapDynamicSizeRatio' ? 0.0005 : 1}
        min={0}
        onChange={(next) => onChange(Number(next) || 0)}
      />
    );
  if (typeof value !== 'string')
    return <TagsInput size="xs" {...shared} value={[...value]} onChange={(next) => onChange(next)} />;
  if (field.options)
    return (
      <Select
        {...shared}
        value={value}
        data={[...field.options]}
        allowDeselect={false}
        onChange={(next) => next && onChange(next)}
      />
    );
  return <TextInput {...shared} value={value} onChange={(event) => onChange(event.currentTarget.value)} />;
}
