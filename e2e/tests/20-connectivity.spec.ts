import { test } from '@playwright/test';
import { connectivity } from '../support/connectivity.ts';

test.describe('pods talk in tunnel mode', () => {
  connectivity('tunnel');
});
