// Package terminal writes for people who sit at a terminal: progress and tables. It draws
// a progress bar on a terminal, and writes a line from time to time elsewhere.
//
// The subcommands and the demo call it. Of this module it imports only package humanize.
package terminal
