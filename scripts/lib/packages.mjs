// Debian packages that tests and the lab need, installed when this is root on Debian.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { has, run } from './run.mjs';

/** Package by a program that it brings. */
const wanted = {
  containerd: 'containerd',
  runc: 'runc',
  '/usr/lib/cni/bridge': 'containernetworking-plugins',
  iptables: 'iptables',
  nft: 'nftables',
  ip: 'iproute2',
  openssl: 'openssl',
  '/usr/sbin/sshd': 'openssh-server',
  ssh: 'openssh-client',
  chromium: 'chromium',
  clang: 'clang',
  'llvm-strip': 'llvm',
  'clang-format': 'clang-format',
  tcpdump: 'tcpdump',
  curl: 'curl',
  '/usr/include/bpf/bpf_helpers.h': 'libbpf-dev',
  jq: 'jq',
  shellcheck: 'shellcheck',
  ethtool: 'ethtool',
  busybox: 'busybox-static',
  ping: 'iputils-ping',
  conntrack: 'conntrack',
  nsenter: 'util-linux',
  sysctl: 'procps',
  '/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf': 'fonts-dejavu-core',
};

/** Packages that are not there, by what they would bring. */
export async function missingPackages() {
  process.env.PATH = [...new Set([...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'])].join(':');
  const missing = new Set();
  for (const [brings, name] of Object.entries(wanted)) {
    if (!(brings.startsWith('/') ? existsSync(brings) : await has(brings))) missing.add(name);
  }
  return [...missing];
}

const policy = '/usr/sbin/policy-rc.d';
const mark = '# made by fairlead for the time of an installation';

/** Installs what is missing; no service of a package is started by that. Returns what it did, in words. */
export async function installPackages() {
  const missing = await missingPackages();
  if (missing.length === 0) return 'all packages are there';
  if (process.getuid?.() !== 0 || !existsSync('/etc/debian_version') || !(await has('apt-get'))) {
    return `missing and not installed (not root on Debian): ${missing.join(' ')}`;
  }
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const own = !existsSync(policy) || readFileSync(policy, 'utf8').includes(mark);
  if (own) writeFileSync(policy, `#!/bin/sh\n${mark}\nexit 101\n`, { mode: 0o755 });
  try {
    const install = ['install', '-y', '--no-install-recommends', ...missing];
    let result = await run('apt-get', install, { env, seconds: 900 });
    if (result.code !== 0) {
      await run('apt-get', ['update'], { env, seconds: 300 });
      result = await run('apt-get', install, { env, seconds: 900 });
    }
    return result.code === 0
      ? `installed ${missing.join(' ')}`
      : `could not install ${missing.join(' ')}: ${result.output.trim().split('\n').at(-1)}`;
  } finally {
    if (own) rmSync(policy, { force: true });
  }
}
