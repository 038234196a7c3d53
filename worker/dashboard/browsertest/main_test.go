//go:build browser

package browsertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
)

// binary is the kooworker that is tested, and chromium the browser that all tests share.
var (
	binary   string
	chromium context.Context
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the binary and starts the browser for all tests.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "browsertest")
	if err != nil {
		return report(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "kooworker")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "github.com/kooworker/kooworker/cmd/kooworker")
	if out, err := build.CombinedOutput(); err != nil {
		return report(fmt.Errorf("go build: %w\n%s", err, out))
	}
	path, err := findChromium()
	if err != nil {
		return report(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Flag("headless", "new"), chromedp.NoSandbox, // root has no sandbox
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	browser, cancel := chromedp.NewContext(allocator)
	defer cancel()
	chromium = browser //nolint:fatcontext // all tests share it
	if err := chromedp.Do(chromium); err != nil {
		return report(fmt.Errorf("start %s: %w", path, err))
	}
	return m.Run()
}

func report(err error) int {
	fmt.Fprintln(os.Stderr, "browsertest:", err)
	return 1
}

func findChromium() (path string, err error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("these tests need Chromium, and none is on PATH; `make test-browser` installs it: %w", err)
}
