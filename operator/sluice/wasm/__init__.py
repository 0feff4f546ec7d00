"""The only room that imports wasmtime. Everything here blocks; nothing here awaits."""
