export function TerminalView() { return null; }
