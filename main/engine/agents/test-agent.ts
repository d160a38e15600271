import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { AgentTls } from './agent-client.ts';

const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

/** Why there can be no test agent here, or undefined. */
export function noTestAgent(): string | undefined {
  if (process.env.FAIRLEAD_TESTSERVER !== undefined) return undefined;
  return spawnSync('go', ['version']).error ? 'the Go tool chain is not installed' : undefined;
}

let built: string | undefined;

/** The test server's binary, built once per test process; the first build in a fresh checkout takes a minute. */
export function testServer(): string {
  const given = process.env.FAIRLEAD_TESTSERVER ?? built;
  if (given !== undefined) return given;
  const directory = mkdtempSync(join(tmpdir(), 'testserver'));
  const binary = join(directory, 'testserver');
  built = binary;
  const run = spawnSync('go', ['build', '-buildvcs=false', '-o', binary, './internal/observer/testserver'], {
    cwd: join(repository, 'node-agent'),
    encoding: 'utf8',
  });
  if (run.status !== 0) {
    removeTestServer();
    throw new Error(`building the test server: ${run.stderr}`);
  }
  return binary;
}

/** Removes what {@link testServer} has built. */
export function removeTestServer(): void {
  if (built !== undefined) rmSync(dirname(built), { recursive: true, force: true });
  built = undefined;
}

/** A real Go server with the agent's streams and synthetic flows, in a process of its own. */
export class TestAgent {
  readonly tls: AgentTls;
  readonly #socket: string;
  readonly #address: string;
  readonly #process: ChildProcess;
  readonly #lines: Interface;
  readonly #directory: string;
  /** The duplexes given out, newest last. */
  readonly duplexes: Duplex[] = [];

  private constructor(child: ChildProcess, lines: Interface, directory: string, ready: Record<string, string>) {
    const { socket = '', address = '', ca = '', cert = '', key = '', serverName = '' } = ready;
    this.#process = child;
    this.#lines = lines;
    this.#directory = directory;
    this.#socket = socket;
    this.#address = address;
    this.tls = { ca: readFileSync(ca), cert: readFileSync(cert), key: readFileSync(key), serverName };
  }

  /** @param eventsPerSecond of endless traffic beside the demo's; 0 for none. */
  static async start(eventsPerSecond = 0): Promise<TestAgent> {
    const directory = mkdtempSync(join(tmpdir(), 'agent'));
    const binary = testServer();
    const args = eventsPerSecond > 0 ? [directory, String(eventsPerSecond)] : [directory];
    const child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const ready = await nextLine(lines);
    return new TestAgent(child, lines, directory, JSON.parse(ready) as Record<string, string>);
  }

  /** A plain connection to the Unix socket. */
  readonly dialLocal = (): Socket => this.#keep(createConnection(this.#socket));

  /** A duplex that is no socket, as an SSH channel or a port-forward is, to the mTLS port. */
  readonly dialTunnel = (): Duplex => {
    const [host = '', port = ''] = this.#address.split(':');
    // Without noDelay every small request waits 40 ms for a delayed acknowledgement.
    const socket = createConnection({ host, port: Number(port), noDelay: true });
    const duplex = new Duplex({
      read: () => socket.resume(),
      write: (chunk, encoding, callback) => socket.write(chunk, encoding, callback),
      final: (callback) => socket.end(callback),
      destroy: (error, callback) => {
        socket.destroy();
        callback(error);
      },
    });
    socket.on('data', (chunk) => duplex.push(chunk) || socket.pause());
    socket.once('end', () => duplex.push(null));
    socket.once('error', (error) => duplex.destroy(error));
    socket.once('close', () => duplex.destroy());
    return this.#keep(duplex);
  };

  #keep<T extends Duplex>(duplex: T): T {
    this.duplexes.push(duplex);
    return duplex;
  }

  /** Runs a command of the test server and waits until it is done. */
  async command(text: string): Promise<void> {
    const done = nextLine(this.#lines);
    this.#process.stdin?.write(`${text}\n`);
    await done;
  }

  async stop(): Promise<void> {
    const exited = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.stdin?.end();
    await exited;
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function nextLine(lines: Interface): Promise<string> {
  return new Promise((resolve, reject) => {
    lines.once('line', resolve);
    lines.once('close', () => reject(new Error('the test server ended')));
  });
}
