// What is pictured: a name, a preset, a path, and what to do before the picture is taken.

const grid = (page) => page.getByRole('grid').getByRole('row').nth(1).waitFor();

/** Every address of the nodes' table is drawn to its end, within its row. */
async function addressesAreWhole(page) {
  const cut = await page.evaluate(() =>
    [...document.querySelectorAll('[role=gridcell] .mono')].flatMap((text) => {
      const range = document.createRange();
      range.selectNodeContents(text);
      const drawn = range.getBoundingClientRect();
      const cell = text.closest('[role=gridcell]').getBoundingClientRect();
      const row = text.closest('[role=row]').getBoundingClientRect();
      return drawn.right > cell.right || drawn.top < row.top || drawn.bottom > row.bottom ? [text.textContent] : [];
    }),
  );
  if (cut.length > 0) throw new Error(`not to be read whole: ${cut.join(', ')}`);
}

export const shots = [
  { name: 'clusters', path: '/clusters', ready: grid },
  { name: 'clusters-node', path: '/clusters/galaxy?node=node1', ready: grid },
  { name: 'clusters-errors', fixture: 'errors', path: '/clusters/galaxy?node=node3', ready: grid },
  { name: 'clusters-offline', path: '/clusters/staging', ready: (page) => page.getByRole('alert').first().waitFor() },
  {
    name: 'clusters-welcome',
    fixture: 'empty',
    path: '/clusters',
    ready: (page) => page.getByText('Welcome to Fairlead').waitFor(),
  },
  {
    name: 'clusters-long',
    fixture: 'long',
    path: '/clusters',
    ready: async (page) => {
      await grid(page);
      await addressesAreWhole(page);
    },
  },
  { name: 'clusters-add', path: '/clusters?tab=add', ready: (page) => page.getByRole('dialog').waitFor() },
  {
    name: 'clusters-trust',
    path: '/clusters/eks',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Review login program' }).click();
      await page.getByText('/usr/local/bin/aws').waitFor();
    },
  },
  {
    name: 'install-values',
    path: '/clusters/galaxy?tab=install',
    ready: (page) => page.getByRole('button', { name: 'Change values or upgrade' }).click(),
  },
  {
    name: 'verify',
    path: '/clusters/galaxy?tab=verify',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Run', exact: true }).click();
      await page.locator('summary').filter({ hasText: 'Address translation' }).first().click();
      await page.getByText('masquerade').first().waitFor();
    },
  },
  {
    name: 'connectivity',
    path: '/clusters/galaxy?tab=connectivity',
    ready: async (page) => {
      await page.getByRole('button', { name: /^Run 5/ }).click();
      await page.getByText('ClusterIP is balanced').click();
      await page.getByText('Flows that the agents saw').waitFor();
    },
  },
  {
    name: 'preflight-empty',
    path: '/clusters/galaxy?tab=preflight',
    ready: (page) => page.getByRole('heading', { name: 'Preflight' }).waitFor(),
  },
  {
    name: 'install-values-yaml',
    path: '/clusters/galaxy?tab=install',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Change values or upgrade' }).click();
      await page.getByText('YAML', { exact: true }).click();
      await page.locator('.cm-content').waitFor();
    },
  },
  {
    name: 'install-plan',
    path: '/clusters/galaxy?tab=install',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Uninstall' }).click();
      await page.getByText('Plan: uninstall').waitFor();
    },
  },
  {
    name: 'install-leave-out',
    fixture: 'errors',
    path: '/clusters/galaxy?tab=install',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Install' }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      await page.getByRole('button', { name: 'Go on without node2…' }).click();
      const dialog = page.getByRole('dialog');
      await dialog.getByRole('textbox').fill('node2');
      await dialog.getByRole('button', { name: 'Leave out' }).waitFor();
    },
  },
  {
    name: 'install-obstacles',
    fixture: 'errors',
    path: '/clusters/galaxy?tab=install',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Install' }).click();
      await page.getByRole('button', { name: 'Make a plan' }).click();
      await page.getByText('Plan: install').waitFor();
      await page.getByRole('button', { name: /ConfigMap/ }).click();
      await page.getByText('routing-mode').first().waitFor();
    },
  },
  {
    name: 'install-progress',
    path: '/clusters/galaxy?tab=install',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Uninstall' }).click();
      await page.getByRole('button', { name: 'Uninstall' }).last().click();
      await page.getByRole('dialog').getByRole('textbox').fill('galaxy');
      await page.getByRole('dialog').getByRole('button', { name: 'Uninstall' }).click();
      await page.getByText('is running').waitFor();
      await page.getByText('3 of').waitFor();
    },
  },
  { name: 'topology', path: '/topology', settle: 2500 },
  { name: 'topology-pod', path: '/topology?scope=pod&select=pod:default/xwing', settle: 2500 },
  {
    name: 'topology-edge',
    path: '/topology?scope=pod&group=namespace&select=pod:default/xwing%3Epod:default/deathstar-7f9c5d6b8-q9wlt',
    settle: 2500,
  },
  { name: 'topology-table', path: '/topology?scope=pod&view=table', ready: grid },
  { name: 'topology-errors', fixture: 'errors', path: '/topology?scope=pod', settle: 2500 },
  { name: 'topology-long', fixture: 'long', path: '/topology?scope=pod', settle: 2500 },
  {
    name: 'topology-large',
    fixture: 'large',
    path: '/topology?scope=workload',
    settle: 7000,
    sizes: [[1920, 1080, ['light']]],
  },
  {
    name: 'topology-2000',
    fixture: 'large',
    path: '/topology?scope=pod&group=namespace',
    settle: 25000,
    sizes: [[1920, 1080, ['dark']]],
  },
  { name: 'flows', path: '/flows', ready: grid },
  {
    name: 'flows-details',
    path: '/flows?filter=verdict:DROPPED%20not%20port:53',
    ready: async (page) => {
      await grid(page);
      await page.getByRole('grid').focus();
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('Enter');
      await page.getByText('Why it was dropped').waitFor();
    },
  },
  {
    name: 'flows-filter',
    path: '/flows?filter=nonsense%20to-port:80',
    ready: async (page) => {
      await grid(page);
      await page.keyboard.press('/');
      await page.keyboard.type('from-pod:de');
      await page.getByRole('option').first().waitFor();
    },
  },
  { name: 'flows-errors', fixture: 'errors', path: '/flows', ready: grid },
  { name: 'flows-long', fixture: 'long', path: '/flows', ready: grid },
  { name: 'flows-many', fixture: 'many', path: '/flows', live: true, ready: grid },
  { name: 'flows-none', fixture: 'empty', path: '/flows', ready: (page) => page.getByText('No cluster yet').waitFor() },
  {
    name: 'palette',
    path: '/flows',
    ready: async (page) => {
      await page.keyboard.press('Control+k');
      await page.getByRole('dialog').waitFor();
    },
  },
  {
    name: 'help',
    path: '/flows',
    ready: async (page) => {
      await grid(page);
      await page.keyboard.press('?');
      await page.getByText('Keyboard shortcuts').waitFor();
    },
  },
  { name: 'policies', path: '/policies', ready: grid },
  { name: 'policies-many', fixture: 'many', path: '/policies', ready: grid },
  {
    name: 'policies-none',
    fixture: 'empty',
    path: '/policies',
    ready: (page) => page.getByText('No cluster yet').waitFor(),
  },
  {
    name: 'policy',
    path: '/policies/CiliumNetworkPolicy/default/rule1',
    ready: (page) => page.locator('.cm-content').waitFor(),
  },
  {
    name: 'policy-broken',
    fixture: 'errors',
    path: '/policies/CiliumNetworkPolicy/shop/broken',
    ready: (page) => page.getByText('There is no field').first().waitFor(),
  },
  {
    name: 'policies-forbidden',
    fixture: 'errors',
    query: '&broken',
    path: '/policies',
    ready: (page) => page.getByRole('alert').waitFor(),
  },
  { name: 'policy-new', path: '/policies?new=choose', ready: (page) => page.getByText('Deny all').first().waitFor() },
  {
    name: 'policy-diff',
    path: '/policies/CiliumNetworkPolicy/default/rule1?edit=1',
    ready: async (page) => {
      await page.locator('.cm-content').click();
      await page.keyboard.press('Control+End');
      await page.keyboard.type('# a comment');
      await page.keyboard.press('Control+Enter');
      await page.getByText('What the server would store').waitFor();
    },
  },
  { name: 'terminal-none', path: '/terminal', ready: (page) => page.getByText('Open a shell').first().waitFor() },
  {
    name: 'terminal',
    path: '/terminal?pod=default/xwing',
    settle: 1500,
    ready: async (page) => {
      await page.locator('.xterm').waitFor();
      await page.waitForTimeout(800);
      await page.keyboard.type('colours\n');
    },
  },
  { name: 'terminal-host-key', path: '/terminal?node=node1', ready: (page) => page.getByText('SHA256:').waitFor() },
  {
    name: 'terminal-changed-key',
    fixture: 'errors',
    path: '/terminal?node=node1',
    ready: (page) => page.getByText('has changed').first().waitFor(),
  },
  {
    name: 'terminal-debug',
    path: '/terminal?debug=pod/default/xwing',
    ready: (page) => page.getByRole('dialog').getByText('The same by hand').waitFor(),
  },
  {
    name: 'terminal-node-pod',
    path: '/terminal?debug=node/node1',
    ready: (page) => page.getByRole('dialog').getByText('The same by hand').waitFor(),
  },
  {
    name: 'terminal-search',
    path: '/terminal?pod=default/xwing',
    settle: 800,
    ready: async (page) => {
      await page.locator('.xterm').waitFor();
      await page.waitForTimeout(600);
      await page.keyboard.press('Control+Shift+F');
      await page.getByRole('textbox', { name: 'Search in the output' }).fill('knows');
    },
  },
  { name: 'terminal-rights', query: '&reader', path: '/terminal', ready: grid },
  { name: 'terminal-long', fixture: 'long', path: '/terminal', ready: grid },
  {
    name: 'terminal-no-cluster',
    fixture: 'empty',
    path: '/terminal',
    ready: (page) => page.getByText('No cluster yet').waitFor(),
  },
  { name: 'audit', path: '/audit', ready: grid },
  {
    name: 'audit-details',
    path: '/audit',
    ready: async (page) => {
      await page.getByRole('row', { name: /policies.apply/ }).click();
      await page.getByRole('complementary').waitFor();
    },
  },
  { name: 'audit-long', fixture: 'long', path: '/audit', ready: grid },
  { name: 'audit-none', fixture: 'empty', path: '/audit' },
  { name: 'logs', path: '/logs', settle: 900 },
  { name: 'logs-errors', fixture: 'errors', path: '/logs', settle: 900 },
  { name: 'logs-long', fixture: 'long', path: '/logs', settle: 900 },
  { name: 'logs-no-cluster', fixture: 'empty', path: '/logs' },
  { name: 'support', path: '/support', ready: (page) => page.getByText('Logs of the agents').waitFor() },
  {
    name: 'support-preview',
    path: '/support',
    ready: async (page) => {
      await page
        .getByRole('button', { name: /Look|Preview|Show/ })
        .first()
        .click();
      await page.getByText('versions/console.txt').waitFor();
    },
  },
  { name: 'support-no-cluster', fixture: 'empty', path: '/support' },
  { name: 'explain', path: '/explain' },
  {
    name: 'explain-answer',
    path: '/explain?from=default/tiefighter&to=service:default/deathstar&port=80',
    ready: async (page) => {
      await page
        .getByRole('button', { name: /Explain|Ask|Trace/ })
        .first()
        .click();
      await page.getByText('default/rule1 allows it').first().waitFor();
    },
  },
  { name: 'explain-long', fixture: 'long', path: '/explain' },
  { name: 'explain-no-cluster', fixture: 'empty', path: '/explain' },
  { name: 'topology-no-cluster', fixture: 'empty', path: '/topology' },
  ...['host-key', 'secrets', 'browser'].map((kind) => ({
    name: `question-${kind}`,
    query: `&ask=${kind}`,
    path: '/flows',
    ready: (page) => page.getByRole('dialog').waitFor(),
  })),
  {
    name: 'unlock',
    path: '/clusters/prod',
    ready: async (page) => {
      await page.getByRole('button', { name: 'Unlock…' }).click();
      await page.getByRole('dialog').waitFor();
    },
  },
  { name: 'not-found', path: '/nowhere' },
];
