import { expect, test } from 'vitest';
import { addressesOf } from './addresses.ts';

test.each([
  [undefined, []],
  [{ address: '' }, []],
  [{ address: '10.0.0.1' }, ['10.0.0.1']],
  [{ address: '10.0.0.1', moreAddresses: ['fd00::1'] }, ['10.0.0.1', 'fd00::1']],
])('the addresses of %j are %j', (one, want) => expect(addressesOf(one)).toEqual(want));
