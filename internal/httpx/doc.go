// Package httpx holds what the HTTP clients of this module have in common: the
// KooDrive client in worker/koodrive and the sender in worker/webhook. Who keeps the
// error of a task uses it as well, since the text may come from a stranger.
//
// It reads Retry-After, keeps secrets so that nothing prints them, reads files of
// secrets again when they change, checks URLs that credentials are sent to, and
// makes a text safe that comes from a stranger. It sends no request, keeps no
// connection and decides nothing about an answer.
//
// It imports the standard library only. The KooDrive simulator must not use it:
// the simulator judges the client and shares none of the client's code.
package httpx
