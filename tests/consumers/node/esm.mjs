import * as react from 'react';
import * as server from 'react-dom/server';
import * as twinwire from 'twinwire-client';
import * as hook from 'twinwire-client/react';

import scene from './scene.cjs';

console.log(JSON.stringify(await scene(twinwire, hook, react, server, ...process.argv.slice(2))));
