package groupcommit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kooworker/kooworker/internal/groupcommit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder notes each commit, which takes a second. Its results are the items in
// upper case.
type recorder struct {
	mu      sync.Mutex
	commits []string // "key: item item …"
	fail    error
}

func (r *recorder) commit(ctx context.Context, key string, items []string) ([]string, error) {
	time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits = append(r.commits, key+": "+strings.Join(items, " "))
	if err := errors.Join(ctx.Err(), r.fail); err != nil {
		return nil, err
	}
	results := make([]string, len(items))
	for i, item := range items {
		results[i] = strings.ToUpper(item)
	}
	return results, nil
}

func ExampleGroup_Do() {
	group := groupcommit.New(100, func(_ context.Context, table string, names []string) ([]int, error) {
		fmt.Println("one query of", table, "for", names)
		lengths := make([]int, len(names))
		for i, name := range names {
			lengths[i] = len(name)
		}
		return lengths, nil
	})
	fmt.Println(group.Do(context.Background(), "users", "ann"))
	// Output:
	// one query of users for [ann]
	// 3 <nil>
}

func TestDo_GathersWhileACommitIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		group := groupcommit.New(3, r.commit)
		var wg sync.WaitGroup
		for _, item := range []string{"a", "b", "c", "d", "e", "f"} {
			wg.Go(func() {
				if got, err := group.Do(t.Context(), "k", item); got != strings.ToUpper(item) || err != nil {
					t.Errorf("Do(%s) = %q, %v; want its own result", item, got, err)
				}
			})
			synctest.Wait() // it is under way, or waits
		}
		wg.Wait()
		if want := []string{"k: a", "k: b c d", "k: e f"}; !slices.Equal(r.commits, want) {
			t.Errorf("commits %q; want %q", r.commits, want)
		}
	})
}

// Paced lets more items gather. It delays no lone caller, and never longer than the pause.
func TestPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var commits []string
		began := time.Now()
		group := groupcommit.New(3, func(_ context.Context, _ string, items []string) ([]struct{}, error) {
			commits = append(commits, time.Since(began).String()+": "+strings.Join(items, " "))
			return nil, nil
		}).Paced(10 * time.Second)
		var wg sync.WaitGroup
		do := func(item string) {
			wg.Go(func() { _, _ = group.Do(t.Context(), "k", item) })
			synctest.Wait()
		}
		do("a")
		time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble
		for _, item := range []string{"b", "c", "d", "e"} {
			do(item)
		}
		wg.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // in a synctest bubble
		do("f")
		wg.Wait()
		time.Sleep(time.Minute) //nolint:forbidigo // in a synctest bubble
		if want := []string{"0s: a", "10s: b c d", "20s: e", "1m20s: f"}; !slices.Equal(commits, want) {
			t.Errorf("commits %q; want %q", commits, want)
		}
	})
}

func TestDo_KeysDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		hang := make(chan struct{})
		group := groupcommit.New(3, func(ctx context.Context, key string, items []string) ([]string, error) {
			if key == "hangs" {
				<-hang
			}
			return r.commit(ctx, key, items)
		})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(hang)
		wg.Go(func() { _, _ = group.Do(t.Context(), "hangs", "a") })
		synctest.Wait()
		began := time.Now()
		if got, err := group.Do(t.Context(), "k", "b"); got != "B" || err != nil || time.Since(began) != time.Second {
			t.Errorf("Do = %q, %v after %s; want its result after the second that its commit takes", got, err, time.Since(began))
		}
	})
}

func TestDo_AnErrorIsEverybodys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := recorder{fail: errors.New("it broke")}
		group := groupcommit.New(10, r.commit)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if got, err := group.Do(t.Context(), "k", "a"); got != "" || !errors.Is(err, r.fail) {
					t.Errorf("Do = %q, %v; want the commit's error", got, err)
				}
			})
		}
		wg.Wait()
		r.fail = nil
		if got, err := group.Do(t.Context(), "k", "a"); got != "A" || err != nil {
			t.Errorf("Do after the failure = %q, %v; want a new commit", got, err)
		}
	})
}

func TestDo_ACallerThatGivesUpHarmsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		group := groupcommit.New(10, r.commit)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := group.Do(ctx, "k", "a"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Do of the caller that gives up: %v; want its context's error", err)
			}
		})
		synctest.Wait()
		if got, err := group.Do(t.Context(), "k", "b"); got != "B" || err != nil {
			t.Errorf("Do = %q, %v; want its result", got, err)
		}
		wg.Wait()
		if want := []string{"k: a", "k: b"}; !slices.Equal(r.commits, want) {
			t.Errorf("commits %q; want %q: the first continues without its caller", r.commits, want)
		}
	})
}

func TestDo_NumberOfResults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		results []int
		want    bool
	}{
		"one": {[]int{7}, true}, "nil, since there is nothing to tell": {nil, true}, "none": {[]int{}, false}, "too many": {[]int{7, 8}, false},
	} {
		group := groupcommit.New(10, func(context.Context, string, []string) ([]int, error) { return c.results, nil })
		if got, err := group.Do(t.Context(), "k", "a"); (err == nil) != c.want || err == nil && c.results != nil && got != 7 {
			t.Errorf("%s: Do = %d, %v; want it to work: %t", name, got, err, c.want)
		}
	}
}

// Many callers, few commits, and every item in exactly one of them.
func TestDo_CommitsEachItemOnce(t *testing.T) {
	t.Parallel()
	const keys, callers, each = 5, 40, 50
	var mu sync.Mutex
	committed, commits := make(map[[2]int]int), 0
	group := groupcommit.New(16, func(_ context.Context, key int, items []int) ([]int, error) {
		mu.Lock()
		defer mu.Unlock()
		if commits++; len(items) > 16 {
			t.Errorf("%d items in one commit; want at most 16", len(items))
		}
		for _, item := range items {
			committed[[2]int{key, item}]++
		}
		return items, nil
	})
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				item := caller*each + i
				if got, err := group.Do(t.Context(), item%keys, item); got != item || err != nil {
					t.Errorf("Do(%d) = %d, %v", item, got, err)
				}
			}
		})
	}
	wg.Wait()
	if len(committed) != callers*each {
		t.Errorf("%d items were committed; want %d", len(committed), callers*each)
	}
	for item, n := range committed {
		if n != 1 {
			t.Errorf("item %v was committed %d times; want once", item, n)
		}
	}
	t.Logf("%d items in %d commits", len(committed), commits)
}
