/** The part of brittle that the tests use; the package has no types of its own. */
declare module 'brittle' {
  export interface Assert {
    is(actual: unknown, expected: unknown, comment?: string): void
    not(actual: unknown, expected: unknown, comment?: string): void
    alike(actual: unknown, expected: unknown, comment?: string): void
    unlike(actual: unknown, expected: unknown, comment?: string): void
    ok(value: unknown, comment?: string): void
    absent(value: unknown, comment?: string): void
    pass(comment?: string): void
    fail(comment?: string): void
    exception(action: (() => unknown) | Promise<unknown>, expected?: RegExp | object, comment?: string): Promise<void>
    execution(action: (() => unknown) | Promise<unknown>, comment?: string): Promise<number>
    comment(...text: unknown[]): void
    timeout(ms: number): void
    plan(n: number): void
    end(): void
    /** Runs after the test, lower `order` first; with `force` also when the run is aborted. */
    teardown(action: () => unknown, options?: { order?: number; force?: boolean }): void
  }
  export interface TestOptions { timeout?: number; skip?: boolean; solo?: boolean; todo?: boolean }
  export interface TestFunction {
    (name: string, action: (t: Assert) => void | Promise<void>): Promise<boolean>
    (name: string, options: TestOptions, action: (t: Assert) => void | Promise<void>): Promise<boolean>
  }
  const test: TestFunction & { skip: TestFunction; solo: TestFunction; hook: TestFunction }
  export default test
}
