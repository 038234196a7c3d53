// Package httpx holds what the HTTP clients of this module have in common: the
// KooDrive client in worker/koodrive and the sender in worker/webhook.
//
// It owns the reading of Retry-After, secrets that nothing prints and files of
// secrets that are read again when they change, the checks of a URL that
// credentials are sent to, and making a text safe that comes from a stranger. It
// sends no request, keeps no connection and decides nothing about an answer.
//
// It imports the standard library only. The KooDrive simulator must not use it:
// the simulator judges the client and shares none of the client's code.
package httpx
