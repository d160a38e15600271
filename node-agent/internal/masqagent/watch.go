package masqagent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// Interval is how often Watch looks at the file. A mounted ConfigMap changes by a switched link, seconds after the object.
const Interval = time.Second

// Watch calls changed with the file's content, at once and whenever it is another one, until ctx ends. A file that is
// not there has no content; err tells of any other trouble with it.
func Watch(ctx context.Context, path string, interval time.Duration, changed func(text []byte, err error)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last []byte
	failed := ""
	for first := true; ; first = false {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			text, err = nil, nil
		}
		switch {
		case err != nil:
			if err.Error() != failed {
				failed = err.Error()
				changed(nil, err)
			}
		case first || failed != "" || !bytes.Equal(text, last):
			failed, last = "", text
			changed(text, nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
