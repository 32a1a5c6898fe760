// A chat of the AI SDK as a page has it, of whatever version.

/** The state of a chat, and every status it went through. */
class State {
  constructor(messages) { this.messages = messages; this.error = undefined; this.statuses = []; }
  set status(status) { this.now = status; if (this.statuses.at(-1) !== status) this.statuses.push(status); }
  get status() { return this.now; }
  pushMessage = message => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => { this.messages = this.messages.with(index, structuredClone(message)); };
  snapshot = thing => structuredClone(thing);
}

/** The class of this version's chats, with a transport of their own each, and these options. */
export const chatOf = ({ AbstractChat }, transport, common = {}) => class Chat extends AbstractChat {
  constructor(id, messages = [], options = {}) {
    const state = new State(messages);
    const data = [];
    super({ id, state, transport: transport(), onData: part => data.push(part.type), onError: () => {}, ...common, ...options });
    Object.assign(this, { seen: state, data });
  }

  get answer() { return this.messages.filter(({ role }) => role === 'assistant').at(-1); }
  get text() { return this.answer?.parts.filter(({ type }) => type === 'text').map(({ text }) => text).join('|') ?? ''; }
  get summary() {
    return {
      statuses: [...this.seen.statuses], text: this.text, error: this.error?.message, data: this.data,
      roles: this.messages.map(({ role }) => role), metadata: this.answer?.metadata,
      parts: this.answer?.parts.map(({ type, state, toolName, output, errorText, input }) => ({ type, state, toolName, output, errorText, input })),
    };
  }
};

export const user = text => ({ id: `m-${text}`, role: 'user', parts: [{ type: 'text', text }] });
