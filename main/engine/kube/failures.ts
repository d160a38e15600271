import type { Failure } from '../../../contract/failure.ts';

/** An answer of the API server that is not a success, with the Status object that it sent if any. */
export class StatusError extends Error {
  override readonly name = 'StatusError';
  readonly status: number;
  readonly reason: string;
  readonly causes: readonly string[];
  constructor(status: number, reason: string, message: string, causes: readonly string[] = []) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.causes = causes;
  }
}

/** Thrown inside this folder to carry a failure through code that can only throw. */
export class FailureError extends Error {
  override readonly name = 'FailureError';
  readonly failure: Failure;
  constructor(failure: Failure) {
    super(failure.why);
    this.failure = failure;
  }
}

/** Reads a Status object out of a body; API servers behind proxies may answer with anything. */
export function statusError(status: number, body: string): StatusError {
  try {
    const parsed = JSON.parse(body) as {
      readonly reason?: string;
      readonly message?: string;
      readonly details?: { readonly causes?: readonly { readonly field?: string; readonly message?: string }[] };
    };
    if (typeof parsed.message === 'string') {
      const causes = (parsed.details?.causes ?? []).map(
        (cause) => `${cause.field ? `${cause.field}: ` : ''}${cause.message ?? ''}`,
      );
      return new StatusError(status, parsed.reason ?? '', parsed.message, causes);
    }
  } catch {
    // Not JSON: the text itself is all there is.
  }
  return new StatusError(status, '', body.slice(0, 500) || `HTTP ${status}`);
}

/** Where a request went, for texts. */
export interface Place {
  readonly context: string;
  readonly server: string;
  readonly path?: string;
  readonly doing?: string;
}

/** Codes that mean: there is no API server to talk to at the moment. */
export const unreachableCodes: ReadonlySet<string> = new Set([
  'cluster.unreachable',
  'cluster.timeout',
  'cluster.unknown-host',
  'cluster.gone',
]);
/** Codes that mean: trying again will not help until somebody changes credentials or the kubeconfig. */
export const loginCodes: ReadonlySet<string> = new Set([
  'cluster.unauthorized',
  'cluster.certificate-expired',
  'cluster.login-not-allowed',
  'cluster.login-programs-denied',
  'cluster.login-failed',
  'cluster.certificate-rejected',
  // Logins on the way: a person has to answer, or to mend something, before trying again helps.
  'ssh.authentication-failed',
  'ssh.certificates-unsupported',
  'ssh.host-key-changed',
  'ssh.host-key-revoked',
  'ssh.host-key-unknown',
  'ssh.key-encrypted',
  'ssh.login-cancelled',
  'ssh.no-keys',
  'ssh.remote-login-program',
]);

const untrusted = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_SIGNATURE_FAILURE',
]);

function transportFailure(code: string, message: string, place: Place): Failure {
  const { server, context } = place;
  switch (code) {
    case 'ECONNREFUSED':
      return {
        code: 'cluster.unreachable',
        what: `The API server of “${context}” does not answer.`,
        why: `Nothing listens at ${server}: the connection was refused.`,
        fix: 'Check that the cluster runs and that the address in the kubeconfig is right.',
        details: message,
      };
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ENETDOWN':
    case 'EHOSTDOWN':
      return {
        code: 'cluster.unreachable',
        what: `The API server of “${context}” cannot be reached.`,
        why: `This machine has no route to ${server}.`,
        fix: 'Check the network or VPN, or reach the cluster through an SSH host.',
        details: message,
      };
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return {
        code: 'cluster.unknown-host',
        what: `The API server of “${context}” cannot be reached.`,
        why: `The name in ${server} cannot be resolved.`,
        fix: 'Check the address in the kubeconfig, the DNS of this machine, or the VPN.',
        details: message,
      };
    case 'ETIMEDOUT':
    case 'ESOCKETTIMEDOUT':
    case 'UND_ERR_CONNECT_TIMEOUT':
      return {
        code: 'cluster.timeout',
        what: `The API server of “${context}” did not answer in time.`,
        why: `${server} stayed silent: a firewall may drop the packets, or the server is overloaded.`,
        fix: 'Check the network or VPN and try again.',
        details: message,
      };
    case 'ECONNRESET':
    case 'EPIPE':
    case 'EOF':
      return {
        code: 'cluster.gone',
        what: `The connection to the API server of “${context}” broke.`,
        why: `${server} closed the connection.`,
        fix: 'It will be tried again. If it stays, check that the API server runs.',
        details: message,
      };
    case 'CERT_HAS_EXPIRED':
      return {
        code: 'cluster.server-certificate-expired',
        what: `The API server of “${context}” cannot be trusted.`,
        why: `The certificate of ${server} has expired.`,
        fix: 'Renew the server’s certificate (e.g. kubeadm certs renew apiserver), or correct this machine’s clock.',
        details: message,
      };
    case 'CERT_NOT_YET_VALID':
      return {
        code: 'cluster.server-certificate-expired',
        what: `The API server of “${context}” cannot be trusted.`,
        why: `The certificate of ${server} is not valid yet.`,
        fix: 'Correct the clock of this machine or of the server.',
        details: message,
      };
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return {
        code: 'cluster.wrong-server-name',
        what: `The API server of “${context}” cannot be trusted.`,
        why: `Its certificate is for other names than the one in ${server}.`,
        fix: 'Use one of the certificate’s names as server, or set tls-server-name in the kubeconfig.',
        details: message,
      };
  }
  if (untrusted.has(code)) {
    return {
      code: 'cluster.unknown-authority',
      what: `The API server of “${context}” cannot be trusted.`,
      why: `The certificate of ${server} was not signed by the authority that the kubeconfig names.`,
      fix: 'Get a fresh kubeconfig with the right certificate-authority-data. If this is unexpected, somebody may be in between.',
      details: message,
    };
  }
  if (/ALERT_CERTIFICATE_EXPIRED|certificate expired/i.test(`${code} ${message}`)) {
    return {
      code: 'cluster.certificate-expired',
      what: `The API server of “${context}” refused the login.`,
      why: 'The client certificate in the kubeconfig has expired.',
      fix: 'Get a fresh kubeconfig, e.g. kubeadm kubeconfig user, or from whoever runs the cluster.',
      details: message,
    };
  }
  if (/ALERT_|bad certificate|unknown ca/i.test(`${code} ${message}`) && /certificate|unknown ca/i.test(message)) {
    return {
      code: 'cluster.certificate-rejected',
      what: `The API server of “${context}” refused the login.`,
      why: 'It does not accept the client certificate in the kubeconfig.',
      fix: 'Get a fresh kubeconfig from whoever runs the cluster.',
      details: message,
    };
  }
  if (code === 'EPROTO' || code.startsWith('ERR_SSL') || code.startsWith('HPE_')) {
    return {
      code: 'cluster.protocol',
      what: `What answers at ${server} is not the API server of “${context}”.`,
      why: 'It does not speak TLS and HTTP as an API server does.',
      fix: 'Check the address and port in the kubeconfig (https or http, and the right port).',
      details: message,
    };
  }
  return {
    code: 'cluster.unreachable',
    what: `The request to the API server of “${context}” failed.`,
    why: message,
    fix: 'Try again; if it stays, check the address in the kubeconfig and the network.',
    details: code,
  };
}

function answerFailure(error: StatusError, place: Place): Failure {
  const doing = place.doing ?? `asking for ${place.path ?? 'it'}`;
  const details = error.causes.length > 0 ? { details: error.causes.join('\n') } : {};
  switch (error.status) {
    case 401:
      return {
        code: 'cluster.unauthorized',
        what: `The API server of “${place.context}” refused the login.`,
        why: 'It does not accept the credentials in the kubeconfig: they are wrong or have expired.',
        fix: 'Log in again, or get a fresh kubeconfig.',
        ...details,
      };
    case 403:
      return {
        code: 'kube.forbidden',
        what: `${doing} is not allowed.`,
        why: error.message,
        fix: 'Ask whoever runs the cluster for the missing right, or use a context that has it.',
        ...details,
      };
    case 404:
      return {
        code: 'kube.not-found',
        what: `${doing} found nothing.`,
        why: error.message,
        fix: 'It may have been deleted, or its kind is not installed in this cluster.',
        ...details,
      };
    case 409:
      return {
        code: error.reason === 'AlreadyExists' ? 'kube.exists' : 'kube.conflict',
        what: `${doing} conflicts with what is there.`,
        why: error.message,
        fix:
          error.reason === 'AlreadyExists'
            ? 'Choose another name, or change the existing one.'
            : 'Somebody else has changed or manages these fields: look at what is there now, then decide again.',
        ...details,
      };
    case 410:
      return {
        code: 'kube.expired',
        what: `${doing} has to start anew.`,
        why: error.message,
        fix: 'It will be tried again by itself.',
        ...details,
      };
    case 413:
    case 422:
    case 400:
      return {
        code: 'kube.invalid',
        what: `${doing} was refused as invalid.`,
        why: error.message,
        fix: 'Correct what the message names.',
        ...details,
      };
    case 429:
      return {
        code: 'kube.busy',
        what: `${doing} was put off.`,
        why: 'The API server is overloaded and asks to wait.',
        fix: 'It will be tried again; try again in a moment.',
        ...details,
      };
  }
  return {
    code: error.status >= 500 ? 'kube.server-error' : 'kube.refused',
    what: `${doing} failed.`,
    why: `The API server answered ${error.status}: ${error.message}`,
    fix:
      error.status >= 500 ? 'Try again. If it stays, look at the API server’s log.' : 'Correct what the message names.',
    ...details,
  };
}

/** Turns whatever a request threw into what, why and fix. */
export function failureOf(error: unknown, place: Place): Failure {
  if (error instanceof FailureError) return error.failure;
  if (error instanceof StatusError) return answerFailure(error, place);
  if (error instanceof Error) {
    if (error.name === 'AbortError')
      return {
        code: 'cancelled',
        what: 'The request was ended.',
        why: 'The connection was closed, or nobody needs the answer any more.',
        fix: 'Nothing to do.',
      };
    if (error.name === 'TimeoutError') return transportFailure('ETIMEDOUT', error.message, place);
    // Happy-eyeballs connecting reports all its attempts; the first says what an operator needs.
    const first = error instanceof AggregateError && error.errors[0] instanceof Error ? error.errors[0] : error;
    return transportFailure((first as NodeJS.ErrnoException).code ?? '', first.message, place);
  }
  return transportFailure('', String(error), place);
}
