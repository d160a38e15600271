package l7

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
)

// copyBody sends a body on as it comes, without waiting for more than there is. to may be io.Discard.
func copyBody(to io.Writer, from *bufio.Reader, wire io.Reader, f framing) error {
	switch {
	case f.chunked:
		return copyChunks(to, from)
	case f.length < 0:
		_, err := io.Copy(to, from)
		return err
	default:
		return copyLength(to, from, wire, f.length)
	}
}

// copyLength takes what is buffered, and lets the kernel move the rest from socket to socket.
func copyLength(to io.Writer, from *bufio.Reader, wire io.Reader, n int64) error {
	if buffered := min(int64(from.Buffered()), n); buffered > 0 {
		if _, err := io.CopyN(to, from, buffered); err != nil {
			return err
		}
		n -= buffered
	}
	if n == 0 {
		return nil
	}
	moved, err := io.CopyN(to, wire, n)
	if errors.Is(err, io.EOF) && moved < n {
		return io.ErrUnexpectedEOF
	}
	return err
}

// chunkLineLimit bounds a chunk's first line, with its extensions.
const chunkLineLimit = 4096

// copyChunks sends chunks and trailers on as they are, after a strict look at each line.
func copyChunks(to io.Writer, from *bufio.Reader) error {
	out := bufio.NewWriterSize(to, 4096)
	flush := func() error {
		if from.Buffered() == 0 {
			return out.Flush()
		}
		return nil
	}
	line := func() ([]byte, error) {
		text, err := from.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if err != nil || len(text) > chunkLineLimit {
			return nil, refuse(400, "a chunk's line is too long")
		}
		if len(text) < 2 || text[len(text)-2] != '\r' || bytes.ContainsAny(text[:len(text)-2], "\r\x00") {
			return nil, refuse(400, "a chunk's line ends without CR LF")
		}
		return text, nil
	}
	for {
		text, err := line()
		if err != nil {
			return err
		}
		digits, _, _ := bytes.Cut(text[:len(text)-2], []byte{';'})
		digits = bytes.TrimRight(digits, " \t")
		size, err := strconv.ParseUint(string(digits), 16, 62)
		if err != nil || len(digits) > 15 || digits[0] == '+' {
			return refuse(400, "a chunk's size is no number")
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
		if size == 0 {
			break
		}
		for left := int64(size); left > 0; {
			if err := flush(); err != nil {
				return err
			}
			if _, err := from.Peek(1); err != nil {
				return unexpected(err)
			}
			n, err := io.CopyN(out, from, min(left, int64(from.Buffered())))
			left -= n
			if err != nil {
				return unexpected(err)
			}
		}
		end, err := line()
		if err != nil {
			return err
		}
		if len(end) != 2 {
			return refuse(400, "a chunk is longer than it says")
		}
		if _, err := out.Write(end); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	// Trailers, up to an empty line.
	for total := 0; ; {
		text, err := line()
		if err != nil {
			return err
		}
		if total += len(text); total > headLimit {
			return refuse(400, "the trailers are too large")
		}
		if name, _, ok := bytes.Cut(text, []byte{':'}); len(text) > 2 && (!ok || !isToken(name)) {
			return refuse(400, "a trailer has no proper name")
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
		if len(text) == 2 {
			return out.Flush()
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// tunnel moves bytes both ways until both sides have ended.
func tunnel(a, b net.Conn, fromA, fromB *bufio.Reader) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(b, a, fromA)
	}()
	pump(a, b, fromB)
	<-done
}

// pump moves one way, and passes the end on.
func pump(to, from net.Conn, buffered *bufio.Reader) {
	var err error
	if n := buffered.Buffered(); n > 0 {
		_, err = io.CopyN(to, buffered, int64(n))
	}
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}
