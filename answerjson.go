package main

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// What every answer in JSON has in common.

// errorAnswer is the answer to what cannot be answered.
type errorAnswer struct {
	Error string `json:"error"`
}

// answerJSON sends v, indented: it is also read by people.
func answerJSON(w http.ResponseWriter, code int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes())
}
