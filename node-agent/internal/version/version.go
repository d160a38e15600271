// Package version says which build this is.
package version

// Version is set by the linker (scripts/build-agent.mjs) to the project's version and a digest of the sources.
var Version = "development"
