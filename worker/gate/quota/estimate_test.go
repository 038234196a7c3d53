package quota

import (
	"encoding/json"
	"testing"
	"time"
)

// now is the time of most of the tests, in ms.
const now = 5000

// refused returns an estimate at the moment of its first refusal, after some calls have
// passed within a second.
func refused(passed int64) *Estimate {
	e := &Estimate{}
	e.Update(now-1000, Report{Counts: Counts{Passed: 1, Fresh: 1}})
	e.Update(now, Report{Counts: Counts{Passed: passed, Fresh: passed, Refused: 1}})
	return e
}

func TestEstimate_FirstRefusal(t *testing.T) {
	t.Parallel()
	for passed, want := range map[int64]float64{3: searchFrom, 700: 699} {
		if e := refused(passed); e.Phase != Searching || e.Rate < want-1 || e.Rate > want+1 {
			t.Errorf("%d calls have passed: %s, %.0f calls a second; want searching from %.0f", passed, e.Phase, e.Rate, want)
		}
	}
}

// A limit of which more has passed than it allows is not the fleet's.
func TestEstimate_IgnoresALimitOfOthers(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{{}, {Calls: 5, Window: 24 * time.Hour}, {Calls: 100, Window: time.Minute}, {Calls: -1, Window: time.Second}, {Calls: 10}} {
		e := refused(1000)
		before := e.Rate
		if e.tell(now, now, l); e.Rate != before || e.ToldAt != 0 {
			t.Errorf("%+v: %.0f calls a second; want it ignored, and %.0f", l, e.Rate, before)
		}
	}
}

func TestEstimate_BelievesALimit(t *testing.T) {
	t.Parallel()
	minute := Limit{Calls: 3000, Window: time.Minute, Dimension: "api"}
	told := Report{Counts: Counts{Passed: 40, Fresh: 40}, Told: minute, ToldAt: now}
	for name, e := range map[string]*Estimate{"after a refusal": refused(40), "before any": {}} {
		if isVoid := e.Update(now, told); e.Phase != Following || e.Rate < 49 || e.Rate > 50 || !isVoid {
			t.Errorf("%s: %s, %.1f calls a second, void %t; want a little less than 50, and that earlier tokens are void", name, e.Phase, e.Rate, isVoid)
		}
		// It does not grow beyond that, as long as it was told lately.
		counts := told.Counts
		for at := int64(now); at < now+170_000; at += stepEvery {
			counts.Passed, counts.Lacked = counts.Passed+10, counts.Lacked+1
			e.Update(at, Report{Counts: counts, Told: minute, ToldAt: now})
		}
		if e.Rate > 50 {
			t.Errorf("%s: %.1f calls a second after three minutes; want no more than 50", name, e.Rate)
		}
	}
}

// A limit that was named long ago is a learnt one: the rate may have grown beyond it.
func TestEstimate_IsToldForAWhile(t *testing.T) {
	t.Parallel()
	e, counts := refused(80), Counts{Passed: 80, Fresh: 80}
	if e.IsTold() {
		t.Error("told before the API has named a limit")
	}
	told := Report{Told: Limit{Calls: 50, Window: time.Second}, ToldAt: now}
	for at := int64(now); at < now+2*toldFor; at += stepEvery {
		counts.Passed, counts.Fresh, counts.Lacked = counts.Passed+10, counts.Fresh+10, counts.Lacked+1
		told.Counts = counts
		e.Update(at, told)
		if isLately := at <= now+toldFor; e.IsTold() != isLately {
			t.Fatalf("told %t %d s after the API has named the limit, at %.0f calls a second; want %t", e.IsTold(), (at-now)/1000, e.Rate, isLately)
		}
	}
	if e.Rate < 51 {
		t.Errorf("%.0f calls a second; want the rate grown beyond the limit", e.Rate)
	}
}

// While the quota of an hour is used up, a probe now and then will do.
func TestEstimate_ProbesALongWindowRarely(t *testing.T) {
	t.Parallel()
	e := refused(1000)
	report := Report{Counts: Counts{Passed: 1000, Fresh: 1000, Refused: 1}, Told: Limit{Calls: 1000, Window: time.Hour}, ToldAt: 5200}
	at := int64(5200)
	for ; e.Phase != Closed && at < 60_000; at += stepEvery {
		e.Update(at, report)
		report.Counts.Refused++
	}
	at += 2000
	e.Update(at, report)
	if e.Phase != Closed || e.Rate > 1.0/30 {
		t.Errorf("%s, %.3f calls a second; want closed, and a probe in 36 s", e.Phase, e.Rate)
	}
}

// A limit that is named for one user is not the fleet's, even if it is for hours. A limit
// of which more passes than it allows is forgotten, however it came to be believed.
func TestEstimate_ForgetsAFalseLimit(t *testing.T) {
	t.Parallel()
	hour := Limit{Calls: 5000, Window: time.Hour}
	e := refused(640)
	if e.Update(now+stepEvery, Report{Counts: Counts{Passed: 768, Fresh: 768, Refused: 2}, Told: hour, ToldAt: now + stepEvery}); e.ToldAt != 0 {
		t.Errorf("told %+v while 640 calls a second pass; want it ignored", e.Told)
	}
	for l, perSecond := range map[Limit]int64{hour: 6, {Calls: 1, Window: 24 * time.Hour}: 3} {
		e := &Estimate{}
		counts := Counts{}
		at := int64(now)
		for ; at == now || e.Told.Calls > 0 && at < now+7200_000; at += 1000 {
			counts.Passed, counts.Lacked = counts.Passed+perSecond, counts.Lacked+1 // more than is allowed
			e.Update(at, Report{Counts: counts, Told: l, ToldAt: now})
		}
		if e.Told.Calls > 0 || at > now+3_600_000 || e.Phase != Searching {
			t.Errorf("%+v: %s after %d s, %+v; want it forgotten within the hour, and the search begun", l, e.Phase, (at-now)/1000, e.Told)
		}
	}
	// Calls are so few that nothing would contradict it, so it does not stop all of them.
	e = &Estimate{}
	e.Update(now, Report{Told: Limit{Calls: 1, Window: 24 * time.Hour}, ToldAt: now})
	if e.Rate < 1.0/61 {
		t.Errorf("%.5f calls a second; want one a minute at least", e.Rate)
	}
}

// The fleet has had nothing to do for long. A short time without a call that passes does not
// make the rate the mean of all this time.
func TestEstimate_ReopensAfterIdleTime(t *testing.T) {
	t.Parallel()
	e := refused(200)
	counts := Counts{Passed: 200, Fresh: 200, Refused: 1}
	at := int64(now)
	step := func(d, passed, refused int64) {
		at += d
		counts.Passed, counts.Fresh, counts.Refused, counts.Lacked = counts.Passed+passed, counts.Fresh+passed, counts.Refused+refused, counts.Lacked+1
		e.Update(at, Report{Counts: counts})
	}
	step(600_000, 0, 0)
	e.Phase = Following
	e.lower(at, 198)
	for range 50 {
		step(stepEvery, 40, 0)
	}
	for range 5 {
		step(stepEvery, 0, 40)
	}
	if e.Phase != Closed {
		t.Fatalf("%s; want closed", e.Phase)
	}
	step(stepEvery, 2, 0)
	if e.Phase != Following || e.Rate < 100 {
		t.Errorf("%s, %.1f calls a second; want following at about 200", e.Phase, e.Rate)
	}
}

// What is known is kept as JSON, and goes on as if it had not been.
func TestEstimate_OutlastsARestart(t *testing.T) {
	t.Parallel()
	var kept, restarted Estimate
	counts := Counts{}
	for i := range int64(300) {
		counts.Passed, counts.Fresh, counts.Lacked = counts.Passed+40, counts.Fresh+40, counts.Lacked+1
		if i%7 == 3 || i > 200 && i < 220 {
			counts.Refused += i % 23
		}
		text, err := json.Marshal(restarted)
		if err != nil {
			t.Fatal(err)
		}
		restarted = Estimate{}
		if err := json.Unmarshal(text, &restarted); err != nil {
			t.Fatal(err)
		}
		r := Report{Counts: counts, Told: Limit{Calls: 100, Window: time.Second}, ToldAt: i / 100 * 20_000}
		kept.Update(1+i*stepEvery, r)
		restarted.Update(1+i*stepEvery, r)
		if kept.Phase != restarted.Phase || kept.Rate != restarted.Rate || kept.Epoch != restarted.Epoch {
			t.Fatalf("step %d: %s %g, epoch %d after restarts; want %s %g, epoch %d",
				i, restarted.Phase, restarted.Rate, restarted.Epoch, kept.Phase, kept.Rate, kept.Epoch)
		}
	}
	if kept.Epoch < 3 {
		t.Errorf("epoch %d; want several corrections", kept.Epoch)
	}
}

// A limit is forgotten when the fleet has not needed it for long.
func TestEstimate_ForgetsALimit(t *testing.T) {
	t.Parallel()
	e := refused(200)
	e.Phase = Following
	counts := Counts{Passed: 200, Fresh: 200, Refused: 1}
	at := int64(5000)
	for ; at < 5000+forgetAfter; at += 10_000 {
		counts.Passed++
		if e.Update(at, Report{Counts: counts}); e.Phase != Following {
			t.Fatalf("%s after %d s; want the limit remembered for %d s", e.Phase, at/1000, forgetAfter/1000)
		}
	}
	if e.Update(at+1000, Report{Counts: counts}); e.Phase != Unlimited || e.Rate != 0 {
		t.Errorf("%s, %.1f calls a second; want no limit any more", e.Phase, e.Rate)
	}
}
