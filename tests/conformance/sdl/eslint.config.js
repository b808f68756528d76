// The rules of @graphql-eslint for the schema and for documents. Deviations from the presets are listed with their reasons.
import plugin from '@graphql-eslint/eslint-plugin';

const preset = (name) => plugin.configs[`flat/${name}`].rules;
const graphql = {
  plugins: { '@graphql-eslint': plugin },
  languageOptions: {
    parser: plugin.parser,
    parserOptions: { graphQLConfig: { schema: 'schema.graphql', documents: 'documents/*.graphql' } },
  },
};

const [severity, { 'ObjectTypeDefinition,ObjectTypeExtension': objects, ...names }] =
  preset('schema-recommended')['@graphql-eslint/naming-convention'];

export default [
  {
    ...graphql,
    files: ['schema.graphql'],
    rules: {
      ...preset('schema-recommended'),
      ...preset('schema-relay'),
      // `NoteType` is the established term for the LOINC document type of a note.
      '@graphql-eslint/naming-convention': [severity, { ...names, 'ObjectTypeDefinition[name.value!=NoteType]': objects }],
      // Payloads of mutations are plain objects, connections and edges have cursors, and the other types are values: none has an id.
      '@graphql-eslint/strict-id-in-types': [
        'error',
        {
          exceptions: {
            suffixes: ['Payload', 'Connection', 'Edge'],
            types: ['Feature', 'HumanName', 'Identifier', 'NoteSignature', 'NoteType', 'PageInfo'],
          },
        },
      ],
      // Short lists that are part of a record are plain lists: identifiers, given names, signatures, roles.
      '@graphql-eslint/relay-edge-types': [
        'error',
        { withEdgeSuffix: true, shouldImplementNode: true, listTypeCanWrapOnlyEdgeType: false },
      ],
    },
  },
  {
    ...graphql,
    files: ['documents/*.graphql'],
    rules: {
      ...preset('operations-recommended'),
      // The same as `limits.depth` in config/base.yaml.
      '@graphql-eslint/selection-set-depth': ['error', { maxDepth: 12 }],
    },
  },
];
