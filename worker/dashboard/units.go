package dashboard

import (
	"fmt"
	"time"
)

func duration(d time.Duration) string {
	switch s := int(d.Round(time.Second).Seconds()); {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
}

func perSecond(rate float64) string { return fmt.Sprintf("%.1f/s", rate) }

func bytesText(n int64) string { return fmt.Sprintf("%d MB", n>>20) }
