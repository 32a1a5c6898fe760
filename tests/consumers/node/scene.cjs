/** What each program does with the package, however it got hold of it: the two entries, and React on a server. */

module.exports = async function scene(twinwire, react, { createElement }, { renderToString }, url, transport) {
  const { createClient, RunFailed } = twinwire;
  const WebSocket = globalThis.WebSocket ?? (await import('ws')).WebSocket; // Node before version 22 has none
  const client = createClient({ url, transport, WebSocket });
  const run = client.stream('one two');
  let text = '';
  for await (const event of run) if (event.type === 'LLM_CHUNK') text += event.data.content;
  const error = await client.stream('again', { agent: 'failing' }).result.catch((reason) => reason);
  const { status } = await client.get(run.runId);
  client.close();
  const Page = () => createElement('p', null, react.useRun(createClient()).status);
  const rendered = renderToString(createElement(Page));
  return { text, result: await run.result, status, failed: error instanceof RunFailed && error.errorType, rendered };
};
