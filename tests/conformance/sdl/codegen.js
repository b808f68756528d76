// Generates the types of the schema and of the documents into generated.ts, for tsc.
import { codegen } from '@graphql-codegen/core';
import * as operations from '@graphql-codegen/typescript-operations';
import * as types from '@graphql-codegen/typescript';
import { parse } from 'graphql';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const read = (file) => ({ location: file, document: parse(readFileSync(file, 'utf8')) });
const scalars = { Date: 'string', DateTime: 'string', ID: 'string' };

const generated = await codegen({
  filename: 'generated.ts',
  schema: read('schema.graphql').document,
  documents: readdirSync('documents').map((file) => read(`documents/${file}`)),
  config: { scalars, strictScalars: true, enumsAsTypes: true },
  plugins: [{ types: {} }, { operations: {} }],
  pluginMap: { types, operations },
});
writeFileSync('generated.ts', generated);
