// Server-Sent Events, read from a response: EventSource cannot send the token in a header.

// Yield the events of a response: {id, name, data}, data parsed. `onBytes` is called for each piece that arrives,
// comments included, as a sign of life.
export async function* eventsOf(response, onBytes) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const event = parse(frame);
        if (event) yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function parse(frame) {
  const event = { id: "", name: "", data: null };
  let hasData = false;
  for (const line of frame.split("\n")) {
    const colon = line.indexOf(": ");
    const name = line.slice(0, colon);
    const value = line.slice(colon + 2);
    if (name === "id") event.id = value;
    else if (name === "event") event.name = value;
    else if (name === "data") {
      event.data = JSON.parse(value);
      hasData = true;
    }
  }
  return hasData ? event : null;
}
