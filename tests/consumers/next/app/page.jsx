import { createClient } from 'twinwire-client';

import { Chat } from './Chat';

const client = createClient(); // nothing is asked while a page is built

export default function Page() {
  return <main title={typeof client.stream}><Chat /></main>;
}
