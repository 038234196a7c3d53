// Package browsertest tests the dashboard in a headless Chromium, as `make test-browser` runs
// it. It has tests only, behind the build tag "browser": `go test ./...` needs no browser.
//
// What runs is the binary: a worker and a dashboard with a users file, against a
// redis-server and a simulated KooDrive. The tests do what operators do (type, click, press
// keys), and then look into Redis and at the simulator for what came of it.
//
// Every tab fails its test if the page logs an error, breaks its Content-Security-Policy, or
// asks another host for something. The package imports the stores to look into them; nothing
// imports it.
package browsertest
