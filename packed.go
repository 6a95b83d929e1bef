package main

// What a script packs with cmsgpack: hundreds of texts are one answer, which the client reads in one piece.

// packed is what has yet to be read of one: MessagePack, of which texts, lists and nothing occur. What is read of it
// shares its memory.
type packed struct {
	rest string
	bad  bool // the answer makes no sense; nothing comes of the rest
}

// packedTexts is a list of texts that is left packed: most are only handed on.
type packedTexts string

// lastAnswer is what was read of the last answer to a question: nearly all say the same again.
type lastAnswer struct {
	digest string // of the answer; empty: there was none
	says   any
}

// packedFalse is how nothing is packed that a command said amid a list.
const packedFalse = "\xc2"

// bytes takes the next n bytes.
func (p *packed) bytes(n uint64) string {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad = true
		return ""
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

// number takes a big-endian number of so many bytes.
func (p *packed) number(width uint64) (n uint64) {
	for _, b := range []byte(p.bytes(width)) {
		n = n<<8 | uint64(b)
	}
	return n
}

// next reads what comes next: a text, or how many items the list has that begins here. nil and false are an empty text.
func (p *packed) next() (text string, items uint64, list bool) {
	switch kind := p.number(1); {
	case p.bad:
		return "", 0, false
	case kind&0xe0 == 0xa0: // fixstr
		return p.bytes(kind & 0x1f), 0, false
	case kind >= 0xd9 && kind <= 0xdb: // str 8, 16, 32
		return p.bytes(p.number(1 << (kind - 0xd9))), 0, false
	case kind&0xf0 == 0x90: // fixarray
		return "", kind & 0x0f, true
	case kind == 0xdc || kind == 0xdd: // array 16, 32
		return "", p.number(2 << (kind - 0xdc)), true
	case kind == 0xc0 || kind == 0xc2: // nil, false
		return "", 0, false
	}
	p.bad = true
	return "", 0, false
}

// text reads a text, which may be none.
func (p *packed) text() string {
	text, _, list := p.next()
	p.bad = p.bad || list
	return text
}

// texts reads the texts of a list that was begun.
func (p *packed) texts(items uint64) []string {
	if items > uint64(len(p.rest)) { // each takes a byte
		p.bad = true
		return nil
	}
	texts := make([]string, items)
	for i := range texts {
		texts[i] = p.text()
	}
	return texts
}

// list reads over a list of texts, or over one text, which is none.
func (p *packed) list() (texts packedTexts, ok bool) {
	all := p.rest
	_, items, ok := p.next()
	for ; items > 0 && !p.bad; items-- {
		p.text()
	}
	return packedTexts(all[:len(all)-len(p.rest)]), ok
}

// after is the value of a field in a list of field, value, field, value… Empty: there is none.
func (l packedTexts) after(field string) string {
	p := packed{rest: string(l)}
	for _, items, _ := p.next(); items > 1; items -= 2 {
		if name, value := p.text(), p.text(); name == field {
			return value
		}
	}
	return ""
}
