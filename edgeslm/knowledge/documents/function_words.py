"""Function words by language: they tell a document's language, and a search ignores them in questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_LISTS: Final = {
    "en": (
        "a about all an and any are as at be been but by can could did do does for from had has have how i "
        "if in into is it its just me my not of on or our out should so some than that the then there these "
        "they this those to up was we were what when where which who whom whose why with would you your"
    ),
    "de": (
        "ab aber alle allem allen aller alles als also am an andere anderen anderer anderes auch auf aus "
        "bei beim bereits bevor bin bis bist bloß da dabei dadurch dafür dagegen daher damit danach daneben "
        "dann daran darauf daraus darf darin darüber darum das dass daß davon davor dazu dein deine deinem "
        "deinen deiner dem den denen denn der deren des dessen dich die dies diese diesem diesen dieser "
        "dieses dir doch dort du durch dürfen eben ein eine einem einen einer eines einige einigen er es "
        "etwa etwas euch eure falls für gar gegen gibt hab habe haben hast hat hatte hatten hier hin hinter "
        "ich ihm ihn ihnen ihr ihre ihrem ihren ihrer ihres im immer in indem ins irgend ist ja je jede "
        "jedem jeden jeder jedes jedoch jene jenem jenen jener jetzt kann kannst kein keine keinem keinen "
        "keiner können könnte könnten lassen lässt man manche mehr mein meine meinem meinen meiner meines "
        "mich mir mit mittels möchte muss müssen musste nach nachdem nein nicht nichts noch nun nur ob "
        "obwohl oder ohne schon sehr sein seine seinem seinen seiner seit sich sie sind so sobald sofern "
        "solche solchen soll sollen sollte sollten somit sondern sonst soweit über um und uns unser unsere "
        "unserem unter vom von vor wann war waren warum was weil welche welchem welchen welcher welches wem "
        "wen wenn wer werde werden weshalb wessen wie wieder wieso will wir wird wirst wo wobei wodurch "
        "wofür woher wohin womit woran worauf woraus worin worüber wozu wurde wurden würde würden zu zum "
        "zur zwar zwischen"
    ),
    "es": (
        "a al algo algún alguna algunas alguno algunos allí ambos ante antes aquel aquella aquellas aquello "
        "aquellos aquí así aun aún aunque bajo cada casi como cómo con contra cual cuál cuales cuáles "
        "cualquier cuando cuándo cuanta cuánta cuántas cuanto cuánto cuántos da de debe deben debería del "
        "demás desde donde dónde dos durante e el él ella ellas ello ellos en entonces entre era eran eres "
        "es esa esas ese eso esos esta está estaba estado están estar estas estás este esté esto estos "
        "estoy fue fueron ha haber había han has hasta hay he hemos hacer hace hago hacen haga la las le "
        "les lo los más me mi mí mis mismo misma mientras muy nada ni no nos nosotros nuestra nuestro nunca "
        "o os otra otras otro otros para pero poco poder podría por porque qué puede pueden puedo pues que "
        "quien quién quienes quiénes quiere quiero se sea sean según ser será si sí sido siempre sin sino "
        "sobre son soy su sus suya suyo también tampoco tan tanto te tener tengo ti tiene tienen toda todas "
        "todavía todo todos tras tu tú tus u un una unas uno unos usted ustedes va vez y ya yo"
    ),
    "fr": (
        "à afin ai ainsi alors après as au aucun aucune aussi autre autres aux avait avant avec avez avoir "
        "ayant c ça car ce cela celle celles celui ces cet cette ceux chaque chez ci comme comment d dans "
        "de depuis des doit dont du elle elles en encore entre est et étaient était étant été être eu eux "
        "faire fait faut il ils j je jusqu l la là laquelle le lequel les lesquels leur leurs lors lorsque "
        "lui m ma mais me même mes moi moins mon n ne ni nos notre nous on ont ou où par parce pas pendant "
        "peu peut peuvent plus pour pourquoi puis puisque qu quand que quel quelle quelles quels qui quoi s "
        "sa sans se sera ses si son sont sous sur t ta te tes toi ton tous tout toute toutes très tu un une "
        "vers vos votre vous y"
    ),
    "it": (
        "a ad agli ai al alcuni alcuno alla alle allo allora altra altre altri altro anche ancora avere "
        "aveva c che chi ci ciascuno ciò col come con così cui d da dagli dai dal dalla dalle dallo degli "
        "dei del della delle dello deve devono di dopo dove durante e è ed era erano essere fa fare fra gli "
        "ha hai hanno ho i il in io l la le lei li lo loro lui ma me mentre mi mia mie miei mio molto ne "
        "negli nei nel nella nelle nello no noi non nostra nostro o ogni oppure per perché però più poi "
        "possono prima può qual quale quali quando quanto quella quelle quelli quello questa queste questi "
        "questo qui se sei senza si sia solo sono sopra sotto stata stato su sua sue sugli sui sul sulla "
        "sulle suo suoi te ti tra tu tua tue tuo tutta tutte tutti tutto un una uno vi viene voi"
    ),
    "pt": (
        "a à ainda algum alguma alguns ao aos apenas aquela aquele aqueles aquilo as às assim até cada com "
        "como da das de dela dele deles depois desde deste do dos durante e é ela elas ele eles em enquanto "
        "entre era essa essas esse esses esta está estão este estes estou eu foi foram for há isso isto já "
        "lhe lhes mais mas me mesmo meu meus minha muito na não nas nem nenhum no nos nós nossa nosso num "
        "numa o onde os ou outra outro outros para pela pelas pelo pelos pode podem por porque porquê qual "
        "quais quando quanto que quem se seja sem sempre ser será seu seus só sobre são sua suas também te "
        "tem têm ter teu todas todo todos tu um uma uns você vocês"
    ),
    "nl": (
        "aan al alle alleen als ander andere bij binnen dan dat de deze die dit doen door dus een eens en "
        "er ga geen haar had heb hebben heeft hem het hier hij hoe hoewel hun iets ik in is ja je jij jou "
        "jouw jullie kan komt kunnen kunt maar mag me meer men met mij mijn moet moeten na naar niet niets "
        "nog nu of om omdat onder ons onze ook op over te tegen ten tot tussen u uit uw van vanaf veel voor "
        "waar waarom waarop waren was wat we wel welk welke werd wie wij wil word worden wordt zal ze zelf "
        "zich zij zijn zo zoals zou"
    ),
    "sv": (
        "alla allt än är att av blev bli blir då där de dem den denna deras dess dessa det detta dig din du "
        "efter ej eller en enligt er ett för från genom ha hade han har här hon hur i ifrån in inga ingen "
        "inte kan kunde man med mellan men mig min mot mycket när någon något några nu och om oss på så "
        "samt sedan sig sin sina ska skall skulle som till under upp ut utan vad var vara vi vid vilka "
        "vilken vilket varför"
    ),
    "da": (
        "ad af alle alt anden at blev blive bliver da de dem den denne der deres det dette dig din disse "
        "dog du efter eller en end er et for fordi fra ham han hans har havde hende her hos hun hvad hvem "
        "hver hvilke hvilken hvis hvor hvordan hvorfor i ikke ind jeg jer kan kunne man med meget mellem "
        "men mig min mod når noget nogle nu og også om op os over på så sådan sig sin skal skulle som til "
        "ud uden under var ved vi vil være været"
    ),
    "no": (
        "alle at av ble bli blir både da de deg dem den denne der deres det dette din disse du eller en enn "
        "er et etter for fordi fra ha hadde han hans har her hos hun hva hvem hver hvilke hvilken hvis hvor "
        "hvordan hvorfor i ikke inn jeg kan kunne man med meg mellom men mer min mot må når noe noen nå og "
        "også om opp oss over på så seg sin skal skulle som til ut uten under var ved vi vil være vært"
    ),
}
FUNCTION_WORDS: Final[Mapping[str, frozenset[str]]] = {
    language: frozenset(words.split()) for language, words in _LISTS.items()
}
"""By ISO 639-1 code. The English list lacks ``will``, which is an MQTT term."""
