// The explorer's page: GraphiQL with this server's schema, the examples of the documentation, and the caller's token. Everything comes from
// this server. Nothing is kept when the page is closed: neither queries, which may name patients, nor tokens.
'use strict';
(async () => {
  const { createElement, useEffect } = React;
  const { useEditorContext } = GraphiQL.React;
  const field = id => document.getElementById(id);
  const text = async path => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.text();
  };

  function report(message, wrong = false) {
    field('status').textContent = message;
    field('status').classList.toggle('wrong', wrong);
  }

  // `cordon dev` prints a link with a key. It opens the tokens that dev made, and only there.
  async function handedOut() {
    const key = new URLSearchParams(location.hash.slice(1)).get('key');
    if (!key) return [];
    const response = await fetch('explorer/tokens', { headers: { Authorization: `Bearer ${key}` } });
    if (!response.ok) return [];
    return response.json();
  }

  function fill(select, values) {
    select.replaceChildren(...values.map(([value, label]) => new Option(label, value)));
  }

  // The values of `localStorage` for as long as the page is open.
  function memory() {
    const values = new Map();
    return {
      get length() { return values.size; },
      getItem: key => values.get(key) ?? null,
      setItem: (key, value) => { values.set(key, value); },
      removeItem: key => { values.delete(key); },
      clear: () => { values.clear(); },
    };
  }

  // The second example's next step needs ids of its last answer: they go to the variables that wait for them.
  let variables = null;
  function passOn(data) {
    if (!variables || !data) return;
    const draft = data.draftNote?.note;
    const found = { patientId: data.patients?.nodes?.[0]?.id, noteId: draft?.id, expectedVersion: draft?.version };
    let current;
    try { current = JSON.parse(variables.getValue() || '{}'); } catch { return; }
    const known = Object.entries(found).filter(([name, value]) => value !== undefined && name in current);
    if (known.length > 0) variables.setValue(JSON.stringify({ ...current, ...Object.fromEntries(known) }, null, 2));
  }
  function KnowVariables() {
    const { variableEditor } = useEditorContext({ nonNull: true });
    useEffect(() => { variables = variableEditor; }, [variableEditor]);
    return null;
  }

  async function fetcher(request) {
    const token = field('token').value.trim();
    if (!token) {
      report('Choose or paste a token first.', true);
      return { errors: [{ message: 'Choose or paste a token first: every request needs one.' }] };
    }
    const began = performance.now();
    const response = await fetch('graphql', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/graphql-response+json', Authorization: `Bearer ${token}` },
      body: JSON.stringify(request),
    });
    const body = await response.json();
    report(`HTTP ${response.status} in ${Math.round(performance.now() - began)} ms`, !response.ok);
    passOn(body.data);
    return body;
  }

  const [sdl, examples, organisations] = await Promise.all([
    text('explorer/schema.graphql'),
    text('explorer/examples.json').then(JSON.parse),
    handedOut(),
  ]);
  if (organisations.length > 0) {
    const organisation = field('organisation');
    const role = field('role');
    const choose = () => {
      const chosen = organisations.find(one => one.slug === organisation.value);
      field('token').value = chosen?.tokens[role.value] ?? '';
      report(chosen ? '' : 'Choose an organisation.');
    };
    fill(organisation, [['', 'Choose …'], ...organisations.map(one => [one.slug, one.name])]);
    fill(role, Object.keys(organisations[0].tokens).map(name => [name, name]));
    role.value = 'clinician';
    for (const select of [organisation, role]) select.addEventListener('change', choose);
    for (const label of document.querySelectorAll('.handed-out')) label.hidden = false;
    choose();
  }
  field('caller').addEventListener('submit', event => event.preventDefault());
  field('show').addEventListener('click', () => {
    const hidden = field('token').type === 'password';
    field('token').type = hidden ? 'text' : 'password';
    field('show').textContent = hidden ? 'Hide' : 'Show';
  });

  const props = {
    fetcher,
    schema: GraphiQL.GraphQL.buildSchema(sdl),
    defaultTabs: examples,
    storage: memory(),
    shouldPersistHeaders: false,
    isHeadersEditorEnabled: false,
    defaultEditorToolsVisibility: 'variables',
    forcedTheme: undefined,
    toolbar: { additionalComponent: KnowVariables },
  };
  ReactDOM.createRoot(field('graphiql')).render(createElement(GraphiQL, props));
})().catch(error => {
  document.getElementById('status').textContent = `The explorer could not start: ${error.message}`;
});
