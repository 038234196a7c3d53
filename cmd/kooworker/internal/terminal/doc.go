// Package terminal writes for people: progress, tables and short durations. It draws
// a progress bar on a terminal, and writes a line from time to time elsewhere.
//
// The subcommands and the demo call it. It imports no other package of this module.
package terminal
