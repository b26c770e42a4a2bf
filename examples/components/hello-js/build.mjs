// Makes a component of a script. In a folder where `npm install @bytecodealliance/componentize-js` was run:
//
//     node --input-type=module - app.js WIT OUTPUT < build.mjs
//
// The fetch event speaks wasi:http 0.2.10, so WIT has to be a folder of that release.

import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [script, wit, output] = process.argv.slice(2);
const source = await readFile(script, 'utf8');
const { component } = await componentize(source, { witPath: wit, worldName: 'http-service' });
await writeFile(output, component);
