package main

import (
	"fmt"
	"time"

	"github.com/kooworker/kooworker/worker/webhook"
)

// webhookFlags say where complete batches are announced.
type webhookFlags struct {
	URL     string        `name:"webhook-url" env:"KOOWORKER_WEBHOOK_URL" group:"webhook" placeholder:"URL" help:"POST to this URL when a batch is complete. Give all workers of a Redis the same URL."`
	Timeout time.Duration `name:"webhook-timeout" env:"KOOWORKER_WEBHOOK_TIMEOUT" group:"webhook" default:"10s" help:"Time-out of one POST (${default})."`

	InsecureHTTP bool `name:"webhook-insecure-http" env:"KOOWORKER_WEBHOOK_INSECURE_HTTP" group:"webhook" help:"Allow plain HTTP to another machine."`
}

const webhookHelp = `Webhooks are signed as the Standard Webhooks specification says. The secret is in KOOWORKER_WEBHOOK_SECRET, or in the file that KOOWORKER_WEBHOOK_SECRET_FILE names, which is read again when it changes.`

// sender returns nil if there is no webhook.
func (f webhookFlags) sender() (*webhook.Sender, error) {
	if f.URL == "" {
		return nil, nil
	}
	secret, err := fromEnv([]variable[webhook.SecretSource]{
		{"KOOWORKER_WEBHOOK_SECRET", webhook.StaticSecret},
		{"KOOWORKER_WEBHOOK_SECRET_FILE", webhook.SecretFile},
	})
	if err != nil {
		return nil, fmt.Errorf("--webhook-url: %w", err)
	}
	sender, err := webhook.New(webhook.Config{
		URL: f.URL, Secret: secret, Timeout: f.Timeout, InsecureHTTP: f.InsecureHTTP, UserAgent: "kooworker/" + build().Version,
	})
	if err != nil {
		return nil, usagef("--webhook-url: %w", err)
	}
	return sender, nil
}
