package batch

import (
	"context"
	"fmt"
	"time"
)

// webhookKey exists while a worker runs that posts webhooks.
const webhookKey = "kooworker:batches:webhook"

// WebhookHeartbeat records that a worker runs that posts the news of complete
// batches. The record lasts for ttl.
func (s *Store) WebhookHeartbeat(ctx context.Context, ttl time.Duration) error {
	if err := s.rdb.Set(ctx, webhookKey, "1", ttl).Err(); err != nil {
		return fmt.Errorf("record that a worker posts webhooks: %w", err)
	}
	return nil
}

// HasWebhook reports whether a worker runs that posts the news of complete batches.
func (s *Store) HasWebhook(ctx context.Context) (bool, error) {
	n, err := s.rdb.Exists(ctx, webhookKey).Result()
	if err != nil {
		return false, fmt.Errorf("ask whether a worker posts webhooks: %w", err)
	}
	return n == 1, nil
}
