// How this program fails: one line on stderr and exit code 2, also where the language's runtime
// gives up. (The shim's own abort exits with 255, but WASI's exit codes end at 125.)

export function fail(what: string): void {
  process.stderr.write("invoice-totals: " + what + "\n");
  process.exit(2);
}

export function abort(
  message: string | null = null,
  fileName: string | null = null,
  lineNumber: u32 = 0,
  columnNumber: u32 = 0,
): void {
  fail(message ? message : "failed");
}
