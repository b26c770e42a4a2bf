// An HTTP service in JavaScript: the fetch event is what `wasi:http/incoming-handler` becomes.
// How it is built: build.mjs beside it.

import { getEnvironment } from 'wasi:cli/environment@0.2.10';

async function answer(request) {
  const url = new URL(request.url);
  switch (url.pathname) {
    case '/':
    case '/health': {
      const name = Object.fromEntries(getEnvironment()).HOSTNAME ?? 'somewhere';
      return new Response(`Hello from JavaScript (${name})\n`);
    }
    case '/echo':
      return new Response(await request.text());
    case '/fetch': {
      const reply = await fetch(url.searchParams.get('url'));
      return new Response(`${reply.status} ${await reply.text()}`);
    }
    default:
      return new Response('nothing here\n', { status: 404 });
  }
}

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));
