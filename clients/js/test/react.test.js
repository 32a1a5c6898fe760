/** `useRun` on a server, where there is nothing but the first rendering. tests/e2e/test_react.py has the rest. */

import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import { expect, test } from 'vitest';

import { createClient } from '../src/index.js';
import { useRun } from '../src/react.js';

/** @import { RunOptions } from '../src/react.js' */

const client = createClient({ url: 'http://localhost' });

/** @param {RunOptions} options */
function Chat(options) {
  const { status, messages, active, send } = useRun(client, options);
  return createElement('p', {}, `${status} ${messages.length} ${active} ${typeof send}`);
}

test.each([{}, { sessionId: 'mine' }, { id: 'mine' }])('on a server nothing has been asked yet (%j)', (options) => {
  expect(renderToString(createElement(Chat, options))).toBe('<p>idle 0 false function</p>');
});
