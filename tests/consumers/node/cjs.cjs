const scene = require('./scene.cjs');

scene(
  require('twinwire-client'),
  require('twinwire-client/react'),
  require('react'),
  require('react-dom/server'),
  ...process.argv.slice(2),
).then((seen) => console.log(JSON.stringify(seen)));
